//! The log behind a queue: a thread writes the lines, so that nothing waits for a reader that has stopped.

use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

/// Limit for lines that wait. Later ones are lost, and their number is logged.
const LINES: usize = 1024;
/// Time limit for writing the lines that wait when the program ends.
const FLUSH: Duration = Duration::from_secs(1);

/// Where the log writes its lines; each write is one line.
#[derive(Clone)]
pub(super) struct LineQueue {
    lines: SyncSender<Vec<u8>>,
    counts: Arc<Counts>,
}

/// Waits for the lines in the queue when it is dropped, for [`FLUSH`] at most.
pub(super) struct FlushAtEnd(Arc<Counts>);

#[derive(Default)]
struct Counts {
    lost: AtomicU64,
    waiting: Mutex<u64>,
    is_written: Condvar,
}

impl LineQueue {
    /// Starts the thread that writes to `output`.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start(output: impl Write + Send + 'static) -> io::Result<(Self, FlushAtEnd)> {
        let (lines, queue) = sync_channel(LINES);
        let counts = Arc::<Counts>::default();
        let of_thread = Arc::clone(&counts);
        std::thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || write_all(&queue, output, &of_thread))?;
        let flush = FlushAtEnd(Arc::clone(&counts));
        Ok((Self { lines, counts }, flush))
    }
}

fn write_all(queue: &Receiver<Vec<u8>>, mut output: impl Write, counts: &Counts) {
    for line in queue {
        // A standard error that is closed, or a journald that is gone, must not end the program.
        let is_written = output.write_all(&line).is_ok();
        if !is_written {
            counts.lost.fetch_add(1, Ordering::Relaxed);
        }
        let waiting = counts.count_waiting(|waiting| waiting - 1);
        counts.is_written.notify_all();
        // While nothing can be written or there is no room, this message would be lost too.
        let has_room = waiting < LINES as u64 / 2;
        let lines = if is_written && has_room { counts.lost.swap(0, Ordering::Relaxed) } else { 0 };
        if lines > 0 {
            tracing::warn!(lines, "lines of this log are lost: its reader is too slow or had stopped");
        }
    }
}

impl Counts {
    fn count_waiting(&self, change: impl FnOnce(u64) -> u64) -> u64 {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        *waiting = change(*waiting);
        *waiting
    }
}

impl Write for LineQueue {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.counts.count_waiting(|waiting| waiting + 1);
        if self.lines.try_send(line.to_vec()).is_err() {
            self.counts.count_waiting(|waiting| waiting - 1);
            self.counts.lost.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for FlushAtEnd {
    fn drop(&mut self) {
        let waiting = self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.0.is_written.wait_timeout_while(waiting, FLUSH, |waiting| *waiting > 0));
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, pipe};
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_reader_that_stops_costs_lines_and_holds_nothing_up() {
        let (mut reader, writer) = pipe().unwrap();
        let (mut queue, flush) = LineQueue::start(writer).unwrap();
        let line = [b'x'; 1024];
        let started = Instant::now();
        // More than the pipe and the queue hold.
        for _ in 0..LINES + 200 {
            queue.write_all(&line).unwrap();
        }
        assert!(queue.counts.lost.load(Ordering::Relaxed) > 0);
        drop(flush);
        assert!(started.elapsed() < FLUSH + Duration::from_secs(2), "{:?}", started.elapsed());
        let mut all = vec![0; LINES * line.len()];
        reader.read_exact(&mut all).unwrap();
    }

    struct Slow<W>(W);

    impl<W: Write> Write for Slow<W> {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            std::thread::sleep(Duration::from_millis(50));
            self.0.write(line)
        }

        fn flush(&mut self) -> io::Result<()> {
            self.0.flush()
        }
    }

    #[test]
    fn the_end_waits_for_the_last_line() {
        let (mut reader, writer) = pipe().unwrap();
        let (mut queue, flush) = LineQueue::start(Slow(writer)).unwrap();
        queue.write_all(b"the last\n").unwrap();
        drop(flush);
        let mut line = [0; 9];
        rustix::io::ioctl_fionbio(&reader, true).unwrap();
        reader.read_exact(&mut line).unwrap();
        assert_eq!(&line, b"the last\n");
    }
}
