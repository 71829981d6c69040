//! The output of a command, collected within bounds.

use std::io::ErrorKind;
use std::time::Duration;

use tokio::net::unix::pipe;

/// For output still in the pipes after the command's end. A process that the command left behind may hold
/// them longer; its output is dropped.
const DRAIN: Duration = Duration::from_millis(200);
/// Of each stream, and of both together; what exceeds it is read and dropped, so that the command does not
/// hang. The whole response has to fit into the 16 MiB of a message that kubelet takes.
pub(super) const MAX_OUTPUT: usize = (16 << 20) - 1024;

/// Read at once.
const CHUNK: usize = 16 << 10;
/// What a pipe holds by default.
const HELD: usize = 64 << 10;

/// The streams of a command under way, read by the task that waits for its end.
pub(super) struct Outputs {
    pub(super) stdout: Collector,
    pub(super) stderr: Collector,
}

impl Outputs {
    pub(super) fn new(stdout: pipe::Receiver, stderr: pipe::Receiver) -> Self {
        Self { stdout: Collector::new(stdout), stderr: Collector::new(stderr) }
    }

    /// Reads both until `end`.
    pub(super) async fn read_until<T>(&mut self, end: impl Future<Output = T>) -> T {
        let mut end = std::pin::pin!(end);
        tokio::select! {
            value = &mut end => return value,
            () = self.read() => {}
        }
        end.await
    }

    /// What was read when both streams ended, or when the drain time was over.
    pub(super) async fn finish(mut self) -> (Vec<u8>, Vec<u8>) {
        // Both, as a rule: no other process has them open.
        let have_ended = self.stdout.read_rest() & self.stderr.read_rest();
        if !have_ended {
            // Else what is left belongs to a process that goes on.
            let _ = tokio::time::timeout(DRAIN, self.read()).await;
        }
        let (stdout, mut stderr) = (self.stdout.data, self.stderr.data);
        stderr.truncate(MAX_OUTPUT - stdout.len());
        (stdout, stderr)
    }

    /// Reads both to their ends. It can be dropped and begun again: nothing is lost.
    async fn read(&mut self) {
        tokio::join!(self.stdout.read(), self.stderr.read());
    }
}

/// What one stream has given so far, up to the cap.
pub(super) struct Collector {
    from: pipe::Receiver,
    data: Vec<u8>,
}

impl Collector {
    fn new(from: pipe::Receiver) -> Self {
        Self { from, data: Vec::new() }
    }

    async fn read(&mut self) {
        while self.from.readable().await.is_ok() && self.take() {
            // A command that writes without a pause must not keep others from this thread.
            tokio::task::coop::consume_budget().await;
        }
    }

    /// Takes what is in the pipe. False at its end.
    fn take(&mut self) -> bool {
        let mut chunk = [0; CHUNK];
        match self.from.try_read(&mut chunk) {
            Ok(0) => false,
            Ok(n) => {
                self.keep(&chunk[..n]);
                true
            }
            Err(error) => error.kind() == ErrorKind::WouldBlock,
        }
    }

    /// Takes what a command that has ended left in the pipe, without waiting. Whether that was its end.
    fn read_rest(&mut self) -> bool {
        let mut chunk = [0; CHUNK];
        // More may come for ever, of a process that goes on.
        for _ in 0..=HELD / CHUNK {
            match rustix::io::read(&self.from, &mut chunk) {
                Ok(0) => return true,
                Ok(n) => self.keep(&chunk[..n]),
                Err(_) => return false,
            }
        }
        false
    }

    fn keep(&mut self, bytes: &[u8]) {
        let room = MAX_OUTPUT - self.data.len();
        self.data.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::exec::pipe;
    use super::*;

    fn outputs() -> (Outputs, [std::os::fd::OwnedFd; 2]) {
        let ((stdout, to_stdout), (stderr, to_stderr)) = (pipe::output().unwrap(), pipe::output().unwrap());
        (Outputs::new(stdout, stderr), [to_stdout, to_stderr])
    }

    #[tokio::test]
    async fn output_beyond_the_cap_is_dropped_not_left_in_the_pipe() {
        let (mut outputs, [to_stdout, to_stderr]) = outputs();
        let written = tokio::task::spawn_blocking(move || {
            let chunk = vec![7u8; 1 << 20];
            rustix::io::write(&to_stderr, b"dropped").unwrap();
            let mut total = 0;
            while total < MAX_OUTPUT + (2 << 20) {
                total += rustix::io::write(&to_stdout, &chunk).unwrap();
            }
            total
        });
        assert!(outputs.read_until(written).await.unwrap() > MAX_OUTPUT);
        let (stdout, stderr) = outputs.finish().await;
        assert_eq!((stdout.len(), stderr.len()), (MAX_OUTPUT, 0));
    }

    #[tokio::test]
    async fn a_pipe_that_another_process_holds_open_does_not_hang() {
        let (mut outputs, [to_stdout, to_stderr]) = outputs();
        rustix::io::write(&to_stdout, b"said").unwrap();
        outputs.read_until(std::future::ready(())).await;
        let begun = std::time::Instant::now();
        assert_eq!(outputs.finish().await.0, b"said");
        assert!(begun.elapsed() < Duration::from_secs(2));
        drop((to_stdout, to_stderr));
    }

    /// A read of its own for each byte, twice as many as a task may do in one turn.
    #[tokio::test]
    async fn a_stream_that_never_stops_does_not_keep_a_deadline_from_passing() {
        use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};
        const PACKETS: usize = 256;
        let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::DIRECT).unwrap();
        fcntl_setpipe_size(&write, PACKETS * rustix::param::page_size()).unwrap();
        let from = tokio::net::unix::pipe::Receiver::from_owned_fd(read).unwrap();
        let mut stdout = Collector::new(from);
        for _ in 0..PACKETS {
            assert_eq!(rustix::io::write(&write, b"x").unwrap(), 1);
        }
        // Known before, so that the one poll finds everything there.
        stdout.from.readable().await.unwrap();
        {
            let mut reading = std::pin::pin!(stdout.read());
            let poll =
                |context: &mut std::task::Context<'_>| std::task::Poll::Ready(reading.as_mut().poll(context));
            assert!(std::future::poll_fn(poll).await.is_pending());
        }
        let taken = stdout.data.len();
        assert!(taken > 0 && taken < PACKETS, "{taken} of {PACKETS} in one turn: others wait");
    }

    #[tokio::test]
    async fn an_end_after_that_of_both_streams_is_waited_for() {
        let (mut outputs, ends) = outputs();
        drop(ends);
        let end = tokio::time::sleep(Duration::from_millis(50));
        outputs.read_until(end).await;
        assert_eq!(outputs.finish().await, (vec![], vec![]));
    }
}
