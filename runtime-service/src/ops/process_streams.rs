//! Copies bytes between a process and a streaming client, in both directions.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use crisp_executor::ids::PodId;
use crisp_operation::Cancel;
use crisp_streaming::{Resizes, Size, StreamError, StreamReader, StreamWriter};
use rustix::io::Errno;
use rustix::termios::{Winsize, tcsetwinsize};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, Interest};
use tokio::net::unix::pipe;

use crate::cause::Cause;

/// Bytes of one read: the default capacity of a pipe.
pub(super) const READ: usize = 64 << 10;
/// The capacity of a pipe whose process fills it, so that the process need not wait for each read.
const WIDE: usize = 256 << 10;
/// A client that leaves may reset its streams before it closes. Time limit for noticing that before the
/// process gets SIGPIPE, or the end of its input, instead of SIGHUP.
const LEAVING: Duration = Duration::from_millis(200);
/// Time limit for terminal output after the process's end, without new output.
const QUIET: Duration = Duration::from_millis(200);
/// Total time limit for that, and for output that the monitor passes on: a process that was left behind may
/// write on.
const LATEST: Duration = Duration::from_secs(2);
/// More than a terminal can hold.
const TERMINAL: u64 = 128 << 10;

/// The name of a pod in the streaming server, for counting its sessions and for messages.
pub(super) fn session_owner(pod: &PodId) -> String {
    format!("pod {pod}")
}

/// The master of a process's terminal. Clones share it.
#[derive(Clone)]
pub(super) struct Terminal(Arc<AsyncFd<OwnedFd>>);

impl Terminal {
    pub(super) fn new(master: OwnedFd) -> Result<Self, Cause> {
        let system = Cause::system("use the terminal");
        rustix::io::ioctl_fionbio(&master, true).map_err(system)?;
        // Deprecated for descriptors that change; an `OwnedFd` always is one terminal.
        #[allow(deprecated)]
        let master = AsyncFd::new(master).map_err(|error| Cause::System {
            action: "wait for the terminal",
            errno: Errno::from_io_error(&error).unwrap_or(Errno::IO),
        })?;
        Ok(Self(Arc::new(master)))
    }

    fn resize(&self, size: Size) {
        let size = Winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 };
        // Fails for a terminal that is gone, which is fine.
        let _ = tcsetwinsize(self.0.get_ref(), size);
    }
}

/// The source of a process's output.
pub(super) enum Source {
    Pipe(pipe::Receiver),
    Terminal(Terminal),
}

impl Source {
    /// Fills `buffer`; 0 at the end.
    pub(super) async fn read(&mut self, buffer: &mut BytesMut) -> io::Result<usize> {
        match self {
            Self::Pipe(pipe) => pipe.read_buf(buffer).await,
            Self::Terminal(Terminal(master)) => {
                buffer.resize(READ, 0);
                let read = |fd: &OwnedFd| Ok(rustix::io::read(fd, &mut buffer[..])?);
                match master.async_io(Interest::READABLE, read).await {
                    Ok(bytes) => {
                        buffer.truncate(bytes);
                        Ok(bytes)
                    }
                    // No process has the terminal open.
                    Err(error) if Errno::from_io_error(&error) == Some(Errno::IO) => Ok(0),
                    Err(error) => Err(error),
                }
            }
        }
    }

    /// Enlarges the pipe. Otherwise the process waits more often.
    fn widen(&self) {
        if let Self::Pipe(pipe) = self {
            let _ = rustix::pipe::fcntl_setpipe_size(pipe, WIDE);
        }
    }

    /// The remaining output of a process that has ended and wrote to this source itself.
    fn rest(&self) -> Rest {
        match self {
            // All its output is already there.
            Self::Pipe(pipe) => match rustix::io::ioctl_fionread(pipe) {
                Ok(bytes) => Rest { bytes, ..Rest::ANY },
                Err(_) => Rest::soon(),
            },
            Self::Terminal(_) => Rest { bytes: TERMINAL, waiting: LATEST, ..Rest::ANY },
        }
    }
}

/// The output of a process up to its end, without output of processes that it left behind.
pub(super) struct Output<'a> {
    from: &'a mut Source,
    ended: &'a Cancel,
    /// When the process ends, all its output is in the source.
    is_direct: bool,
    rest: Option<Rest>,
}

/// The rest of the output after the process has ended. The limit counts bytes, so a slow client may take its
/// time.
struct Rest {
    /// At most.
    bytes: u64,
    /// Total time limit for waiting for bytes.
    waiting: Duration,
    until: Option<Instant>,
}

impl Rest {
    const ANY: Self = Self { bytes: u64::MAX, waiting: Duration::MAX, until: None };

    fn soon() -> Self {
        Self { until: Some(Instant::now() + LATEST), ..Self::ANY }
    }

    fn is_over(&self) -> bool {
        self.bytes == 0 || self.waiting.is_zero() || self.until.is_some_and(|until| Instant::now() >= until)
    }
}

impl<'a> Output<'a> {
    /// Output that the process writes itself.
    pub(super) fn direct(from: &'a mut Source, ended: &'a Cancel) -> Self {
        Self { from, ended, is_direct: true, rest: None }
    }

    /// Output that the monitor passes on; the monitor may still have some of it.
    pub(super) fn passed_on(from: &'a mut Source, ended: &'a Cancel) -> Self {
        Self { from, ended, is_direct: false, rest: None }
    }

    /// Fills `buffer`, which is empty; 0 at the end.
    pub(super) async fn read(&mut self, buffer: &mut BytesMut) -> io::Result<usize> {
        loop {
            if self.rest.is_none() && self.ended.is_cancelled() {
                self.rest = Some(if self.is_direct { self.from.rest() } else { Rest::soon() });
            }
            let Some(rest) = &mut self.rest else {
                tokio::select! {
                    biased;
                    read = self.from.read(buffer) => return read,
                    () = self.ended.cancelled() => continue,
                }
            };
            if rest.is_over() {
                return Ok(0);
            }
            let begun = Instant::now();
            let read = tokio::time::timeout(QUIET.min(rest.waiting), self.from.read(buffer));
            let read = read.await.unwrap_or(Ok(0))?;
            rest.waiting = rest.waiting.saturating_sub(begun.elapsed());
            rest.bytes = rest.bytes.saturating_sub(read as u64);
            return Ok(read);
        }
    }
}

/// The destination of a process's input.
pub(super) enum Sink {
    Pipe(pipe::Sender),
    Terminal(Terminal),
}

impl Sink {
    async fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Pipe(pipe) => pipe.write_all(bytes).await,
            Self::Terminal(Terminal(master)) => {
                let mut rest = bytes;
                while !rest.is_empty() {
                    let write = |fd: &OwnedFd| Ok(rustix::io::write(fd, rest)?);
                    let written = master.async_io(Interest::WRITABLE, write).await?;
                    rest = &rest[written..];
                }
                Ok(())
            }
        }
    }
}

/// Copies until the client ends its input, or the process closes it. A pipe is closed then; a terminal is
/// not, because the user types ^D there. When the client is lost, the pipe stays open: the process gets SIGHUP first.
pub(super) async fn copy_input(from: Option<StreamReader>, to: &mut Option<Sink>) {
    let (Some(mut from), Some(sink)) = (from, to.as_mut()) else { return };
    loop {
        match from.read().await {
            Ok(Some(bytes)) if sink.write_all(&bytes).await.is_ok() => {}
            Err(StreamError::Lost) => return,
            Err(StreamError::Reset | StreamError::TooMany | StreamError::Stalled) => {
                tokio::time::sleep(LEAVING).await;
                break;
            }
            Ok(_) => break,
        }
    }
    *to = None;
}

/// Copies until the process's output ends or the client closes it; then the process gets SIGPIPE. If the
/// client is gone, the output is discarded.
pub(super) async fn copy_output(source: &mut Option<Source>, to: Option<StreamWriter>, ended: &Cancel) {
    let (Some(from), Some(mut to)) = (source.as_mut(), to) else { return };
    let mut output = Output::direct(from, ended);
    let (mut buffer, mut is_wide) = (BytesMut::new(), false);
    loop {
        buffer.clear();
        buffer.reserve(READ);
        let Ok(read @ 1..) = output.read(&mut buffer).await else { break };
        if read >= READ && !is_wide {
            is_wide = true;
            output.from.widen();
        }
        match to.write(&buffer).await {
            // The process may still read input of a client that has closed its session properly.
            Ok(()) | Err(StreamError::Lost) => {}
            Err(StreamError::Reset | StreamError::TooMany | StreamError::Stalled) => {
                tokio::time::sleep(LEAVING).await;
                *source = None;
                return;
            }
        }
    }
    let _ = to.close().await;
}

/// Reads output that has no client, so that a command can finish printing.
pub(super) async fn discard(from: &mut Option<Source>) {
    let Some(from) = from else { return };
    let mut buffer = BytesMut::with_capacity(READ);
    while let Ok(1..) = from.read(&mut buffer).await {
        buffer.clear();
    }
}

/// Applies sizes until the client sends no more.
pub(super) async fn copy_sizes(from: Option<Resizes>, to: Option<&Terminal>) {
    let (Some(mut from), Some(to)) = (from, to) else { return };
    while let Some(size) = from.next().await {
        to.resize(size);
    }
}

#[cfg(test)]
mod tests {
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};

    use super::super::exec::pipe;
    use super::*;

    /// Reads to the end, with a pause after the first piece, like a slow client.
    async fn read_slowly(source: &mut Source) -> usize {
        let ended = Cancel::new();
        ended.cancel();
        let mut output = Output::direct(source, &ended);
        let (mut all, mut buffer) = (0, BytesMut::new());
        loop {
            buffer.clear();
            buffer.reserve(READ);
            match output.read(&mut buffer).await.unwrap() {
                0 => return all,
                read if all == 0 => {
                    all += read;
                    tokio::time::sleep(LATEST + Duration::from_millis(100)).await;
                }
                read => all += read,
            }
        }
    }

    #[tokio::test]
    async fn the_rest_in_a_pipe_waits_for_a_slow_client_however_long() {
        let (from, to) = pipe::output().unwrap();
        let mut source = Source::Pipe(from);
        source.widen();
        assert_eq!(rustix::io::write(&to, &[7; 200_000]).unwrap(), 200_000);
        // A process that was left behind has the writing end.
        assert_eq!(read_slowly(&mut source).await, 200_000);
        drop(to);
    }

    fn raw_terminal() -> (Source, OwnedFd) {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap();
        let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOCTTY | rustix::fs::OFlags::NONBLOCK;
        let slave = rustix::fs::open(name.as_c_str(), flags, rustix::fs::Mode::empty()).unwrap();
        let mut modes = tcgetattr(&slave).unwrap();
        modes.make_raw();
        tcsetattr(&slave, OptionalActions::Now, &modes).unwrap();
        (Source::Terminal(Terminal::new(master).unwrap()), slave)
    }

    #[tokio::test]
    async fn the_rest_in_a_terminal_waits_for_a_slow_client_however_long() {
        let (mut source, slave) = raw_terminal();
        let mut written = 0;
        while let Ok(more) = rustix::io::write(&slave, &[b'x'; 1000]) {
            written += more;
        }
        assert!(written > 5000, "{written}");
        assert_eq!(read_slowly(&mut source).await, written);
    }

    /// Neither by much output nor by little at a time.
    #[tokio::test]
    async fn a_process_that_was_left_behind_cannot_keep_the_output_of_a_terminal_from_ending() {
        for (bytes, pause) in [(1000, Duration::from_millis(1)), (10, Duration::from_millis(50))] {
            let (mut source, slave) = raw_terminal();
            let loud = async {
                loop {
                    // As much as fits.
                    let _ = rustix::io::write(&slave, &vec![b'x'; bytes]);
                    tokio::time::sleep(pause).await;
                }
            };
            tokio::select! {
                _ = read_slowly(&mut source) => {}
                () = loud => {}
                () = tokio::time::sleep(5 * LATEST) => panic!("it goes on"),
            }
        }
    }
}
