//! The output of a command, collected within bounds.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;

/// For output still in the pipes after the command's end. A process that the command left behind may hold
/// them longer; its output is dropped.
const DRAIN: Duration = Duration::from_millis(200);
/// Of each stream; what exceeds it is read and dropped, so that the command does not hang.
const MAX_OUTPUT: usize = 16 << 20;

/// Reads one stream, up to the cap, in a task that ends with the collector.
pub(super) struct Collector {
    data: Arc<Mutex<Vec<u8>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Collector {
    pub(super) fn read(mut from: pipe::Receiver) -> Self {
        let data = Arc::new(Mutex::new(Vec::new()));
        let into = data.clone();
        let task = tokio::spawn(async move {
            let mut chunk = vec![0; 16 << 10];
            while let Ok(n @ 1..) = from.read(&mut chunk).await {
                let mut data = into.lock().unwrap_or_else(PoisonError::into_inner);
                let room = MAX_OUTPUT - data.len();
                data.extend_from_slice(&chunk[..n.min(room)]);
            }
        });
        Self { data, task }
    }

    /// What was read when the stream ended, or when the drain time was over.
    pub(super) async fn finish(mut self) -> Vec<u8> {
        if tokio::time::timeout(DRAIN, &mut self.task).await.is_err() {
            self.task.abort();
        }
        std::mem::take(&mut self.data.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::exec::pipe;
    use super::*;

    #[tokio::test]
    async fn output_beyond_the_cap_is_dropped_not_left_in_the_pipe() {
        let (receiver, write) = pipe::output().unwrap();
        let collector = Collector::read(receiver);
        let written = tokio::task::spawn_blocking(move || {
            let chunk = vec![7u8; 1 << 20];
            let mut total = 0;
            while total < MAX_OUTPUT + (2 << 20) {
                total += rustix::io::write(&write, &chunk).unwrap();
            }
            total
        });
        assert!(written.await.unwrap() > MAX_OUTPUT);
        assert_eq!(collector.finish().await.len(), MAX_OUTPUT);
    }

    #[tokio::test]
    async fn a_pipe_that_another_process_holds_open_does_not_hang() {
        let (receiver, write) = pipe::output().unwrap();
        rustix::io::write(&write, b"said").unwrap();
        let collector = Collector::read(receiver);
        let begun = std::time::Instant::now();
        assert_eq!(collector.finish().await, b"said");
        assert!(begun.elapsed() < Duration::from_secs(2));
        drop(write);
    }
}
