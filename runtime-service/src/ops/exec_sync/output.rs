//! Collects the output of a command, within limits.

use std::io::ErrorKind;
use std::mem::take;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::net::unix::pipe;

use super::super::exec::pipe::receiver;
use crate::cause::Cause;

/// Time limit for output still in the pipes after the command's end. A process that the command left behind
/// may keep them open; its output is dropped.
const DRAIN: Duration = Duration::from_millis(200);
/// Limit for each stream and for both together. Output above it is read and dropped, so that the command does
/// not block. The response must fit into the 16 MiB message that kubelet accepts.
pub(super) const MAX_OUTPUT: usize = (16 << 20) - 1024;

/// Limit for the output that all commands together hold. Above it each keeps less of its streams: probes, which a
/// client may run in any number, are read for a few lines.
const MAX_OF_ALL: usize = 128 << 20;
const MAX_THEN: usize = 64 << 10;

/// The output that all commands hold now.
static HELD_BY_ALL: AtomicUsize = AtomicUsize::new(0);

/// Bytes of one read.
const CHUNK: usize = 16 << 10;
/// The default capacity of a pipe.
const HELD: usize = 64 << 10;

/// The output streams of a command, read by the task that waits for its end. `F` says whether they are polled.
pub(super) struct Outputs<F> {
    stdout: Collector<F>,
    stderr: Collector<F>,
}

impl<F: AsFd> Outputs<F> {
    pub(super) fn new(stdout: F, stderr: F) -> Self {
        Self { stdout: Collector::new(stdout), stderr: Collector::new(stderr) }
    }

    /// Reads what a command that has ended left. Whether that was all: no other process has the streams open.
    fn read_rest(&mut self) -> bool {
        self.stdout.read_rest() & self.stderr.read_rest()
    }

    fn into_data(self) -> (Vec<u8>, Vec<u8>) {
        joined(self.stdout.kept, self.stderr.kept)
    }
}

/// Both streams, within the limit for both together.
fn joined(mut stdout: Kept, mut stderr: Kept) -> (Vec<u8>, Vec<u8>) {
    let (stdout, mut stderr) = (take(&mut stdout.data), take(&mut stderr.data));
    stderr.truncate(MAX_OUTPUT - stdout.len());
    (stdout, stderr)
}

impl Outputs<OwnedFd> {
    /// For a command that goes on.
    pub(super) fn polled(self) -> Result<Outputs<pipe::Receiver>, Cause> {
        Ok(Outputs { stdout: self.stdout.polled()?, stderr: self.stderr.polled()? })
    }

    /// As [`Outputs<pipe::Receiver>::finish`].
    pub(super) async fn finish(mut self) -> (Vec<u8>, Vec<u8>) {
        if self.read_rest() {
            return self.into_data();
        }
        let (Collector { from: stdout, kept: of_stdout }, Collector { from: stderr, kept: of_stderr }) =
            (self.stdout, self.stderr);
        let (Ok(stdout), Ok(stderr)) = (receiver(stdout), receiver(stderr)) else {
            // What the command itself has written is here.
            return joined(of_stdout, of_stderr);
        };
        let (stdout, stderr) =
            (Collector { from: stdout, kept: of_stdout }, Collector { from: stderr, kept: of_stderr });
        Outputs { stdout, stderr }.finish().await
    }
}

impl Outputs<pipe::Receiver> {
    /// Reads both until `end` completes.
    pub(super) async fn read_until<T>(&mut self, end: impl Future<Output = T>) -> T {
        let mut end = std::pin::pin!(end);
        tokio::select! {
            value = &mut end => return value,
            () = self.read() => {}
        }
        end.await
    }

    /// Returns the output when both streams have ended or the drain time has passed.
    pub(super) async fn finish(mut self) -> (Vec<u8>, Vec<u8>) {
        if !self.read_rest() {
            // After the time limit, the rest belongs to a process that is left behind.
            let _ = tokio::time::timeout(DRAIN, self.read()).await;
        }
        self.into_data()
    }

    /// Reads both to their ends. It can be dropped and called again: nothing is lost.
    async fn read(&mut self) {
        tokio::join!(self.stdout.read(), self.stderr.read());
    }
}

/// One stream, and its output so far.
struct Collector<F> {
    from: F,
    kept: Kept,
}

/// The output of one stream, up to the limit.
struct Kept {
    data: Vec<u8>,
    /// Some output was dropped: what follows it is dropped too.
    is_cut: bool,
    /// The output that it and others hold.
    held_by_all: &'static AtomicUsize,
    /// Its own part of that.
    counted: usize,
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.held_by_all.fetch_sub(self.counted, Ordering::Relaxed);
    }
}

impl Collector<OwnedFd> {
    fn polled(self) -> Result<Collector<pipe::Receiver>, Cause> {
        Ok(Collector { from: receiver(self.from)?, kept: self.kept })
    }
}

impl Collector<pipe::Receiver> {
    async fn read(&mut self) {
        while self.from.readable().await.is_ok() && self.take() {
            // A command that writes without a pause must not block other tasks of this thread.
            tokio::task::coop::consume_budget().await;
        }
    }

    /// Reads the content of the pipe. Returns false at its end.
    fn take(&mut self) -> bool {
        let mut chunk = [0; CHUNK];
        match self.from.try_read(&mut chunk) {
            Ok(0) => false,
            Ok(n) => {
                self.kept.keep(&chunk[..n]);
                true
            }
            Err(error) => error.kind() == ErrorKind::WouldBlock,
        }
    }
}

impl<F: AsFd> Collector<F> {
    fn new(from: F) -> Self {
        Self { from, kept: Kept::default() }
    }

    /// Takes what a command that has ended left in the pipe, without waiting. Whether that was its end.
    fn read_rest(&mut self) -> bool {
        let mut chunk = [0; CHUNK];
        // More may come for ever, of a process that goes on.
        for _ in 0..=HELD / CHUNK {
            match rustix::io::read(&self.from, &mut chunk) {
                Ok(0) => return true,
                Ok(n) => self.kept.keep(&chunk[..n]),
                Err(_) => return false,
            }
        }
        false
    }
}

impl Default for Kept {
    fn default() -> Self {
        Self { data: Vec::new(), is_cut: false, held_by_all: &HELD_BY_ALL, counted: 0 }
    }
}

impl Kept {
    fn keep(&mut self, bytes: &[u8]) {
        if self.is_cut {
            return;
        }
        let limit = if self.held_by_all.load(Ordering::Relaxed) < MAX_OF_ALL { MAX_OUTPUT } else { MAX_THEN };
        let kept = &bytes[..bytes.len().min(limit.saturating_sub(self.data.len()))];
        self.is_cut = kept.len() < bytes.len();
        self.data.extend_from_slice(kept);
        self.counted += kept.len();
        self.held_by_all.fetch_add(kept.len(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::exec::pipe as command_pipe;
    use super::*;

    fn outputs() -> (Outputs<pipe::Receiver>, [OwnedFd; 2]) {
        let ((stdout, to_stdout), (stderr, to_stderr)) =
            (command_pipe::output().unwrap(), command_pipe::output().unwrap());
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
    async fn many_loud_commands_share_one_limit() {
        let held_by_all: &AtomicUsize = Box::leak(Box::default());
        let outputs = || {
            let (mut outputs, ends) = outputs();
            (outputs.stdout.kept.held_by_all, outputs.stderr.kept.held_by_all) = (held_by_all, held_by_all);
            (outputs, ends)
        };
        let mut loud: Vec<_> = (0..12).map(|_| outputs()).collect();
        let chunk = vec![7; 1 << 20];
        for _ in 0..16 {
            loud.iter_mut().for_each(|(outputs, _)| outputs.stdout.kept.keep(&chunk));
        }
        let held: usize = loud.iter().map(|(outputs, _)| outputs.stdout.kept.data.len()).sum();
        assert!(held < MAX_OF_ALL + 12 * chunk.len(), "{held}");
        let (mut late, _ends) = outputs();
        late.stdout.kept.keep(&chunk);
        assert_eq!(late.stdout.kept.data.len(), MAX_THEN);
        drop(loud);
        late.stderr.kept.keep(&chunk);
        assert_eq!(late.stderr.kept.data.len(), chunk.len());
        late.stdout.kept.keep(&chunk);
        assert_eq!(late.stdout.kept.data.len(), MAX_THEN, "no hole in the middle");
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

    #[tokio::test]
    async fn what_is_not_polled_is_read_at_the_end_and_a_process_left_behind_does_not_hang() {
        let unpolled = || command_pipe::unpolled_output().unwrap();
        let ((stdout, to_stdout), (stderr, to_stderr)) = (unpolled(), unpolled());
        rustix::io::write(&to_stdout, b"said").unwrap();
        rustix::io::write(&to_stderr, b"warned").unwrap();
        drop(to_stdout);
        let outputs = Outputs::new(stdout, stderr);
        let begun = std::time::Instant::now();
        assert_eq!(outputs.finish().await, (b"said".to_vec(), b"warned".to_vec()));
        assert!(begun.elapsed() < Duration::from_secs(2));
        drop(to_stderr);
    }

    /// One read per byte, twice as many as a task may do in one turn.
    #[tokio::test]
    async fn a_stream_that_never_stops_does_not_keep_a_deadline_from_passing() {
        use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};
        const PACKETS: usize = 256;
        let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::DIRECT).unwrap();
        fcntl_setpipe_size(&write, PACKETS * rustix::param::page_size()).unwrap();
        let from = pipe::Receiver::from_owned_fd(read).unwrap();
        let mut stdout = Collector::new(from);
        for _ in 0..PACKETS {
            assert_eq!(rustix::io::write(&write, b"x").unwrap(), 1);
        }
        // Readiness is known before, so that one poll reads everything.
        stdout.from.readable().await.unwrap();
        {
            let mut reading = std::pin::pin!(stdout.read());
            let poll =
                |context: &mut std::task::Context<'_>| std::task::Poll::Ready(reading.as_mut().poll(context));
            assert!(std::future::poll_fn(poll).await.is_pending());
        }
        let taken = stdout.kept.data.len();
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
