//! Bytes between a process and a streaming client, in both directions.

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

/// Read at once: what a pipe holds by default.
pub(super) const READ: usize = 64 << 10;
/// What a pipe gets to hold whose process fills it: so the process need not wait for each read.
const WIDE: usize = 256 << 10;
/// After the process's end, what it has written to a terminal takes a moment to come out.
const QUIET: Duration = Duration::from_millis(200);
/// Its output is over then in any case: a process that it left behind may write on.
const LATEST: Duration = Duration::from_secs(2);

/// How the streaming server counts the sessions of a pod, and names it in messages.
pub(super) fn session_owner(pod: &PodId) -> String {
    format!("pod {pod}")
}

/// The master of a process's terminal. Clones are the same.
#[derive(Clone)]
pub(super) struct Terminal(Arc<AsyncFd<OwnedFd>>);

impl Terminal {
    pub(super) fn new(master: OwnedFd) -> Result<Self, Cause> {
        let system = Cause::system("use the terminal");
        rustix::io::ioctl_fionbio(&master, true).map_err(system)?;
        // Deprecated for descriptors that change under it; an `OwnedFd` names one terminal for life.
        #[allow(deprecated)]
        let master = AsyncFd::new(master).map_err(|error| Cause::System {
            action: "wait for the terminal",
            errno: Errno::from_io_error(&error).unwrap_or(Errno::IO),
        })?;
        Ok(Self(Arc::new(master)))
    }

    fn resize(&self, size: Size) {
        let size = Winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 };
        // A terminal that is gone has no size.
        let _ = tcsetwinsize(self.0.get_ref(), size);
    }
}

/// Where the output of a process comes from.
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
                    // No process has the terminal open any more.
                    Err(error) if Errno::from_io_error(&error) == Some(Errno::IO) => Ok(0),
                    Err(error) => Err(error),
                }
            }
        }
    }

    /// Makes room for more. Without it the process waits more often.
    fn widen(&self) {
        if let Self::Pipe(pipe) = self {
            let _ = rustix::pipe::fcntl_setpipe_size(pipe, WIDE);
        }
    }

    /// Bytes that can be read now, of which a process that has ended was the last to write some. None: it does
    /// not say.
    fn readable(&self) -> Option<u64> {
        match self {
            Self::Pipe(pipe) => rustix::io::ioctl_fionread(pipe).ok(),
            Self::Terminal(_) => None,
        }
    }
}

/// The output of a process up to its end, and not that of those that it left behind.
pub(super) struct Output<'a> {
    from: &'a mut Source,
    ended: &'a Cancel,
    /// What the process has written is all in the source when it ends.
    is_direct: bool,
    rest: Option<Rest>,
}

/// What is left once the process has ended.
struct Rest {
    bytes: Option<u64>,
    until: Instant,
}

impl<'a> Output<'a> {
    /// Written by the process itself.
    pub(super) fn direct(from: &'a mut Source, ended: &'a Cancel) -> Self {
        Self { from, ended, is_direct: true, rest: None }
    }

    /// Passed on by the monitor, which may have more of it.
    pub(super) fn passed_on(from: &'a mut Source, ended: &'a Cancel) -> Self {
        Self { from, ended, is_direct: false, rest: None }
    }

    /// Fills `buffer`, which is empty; 0 at the end.
    pub(super) async fn read(&mut self, buffer: &mut BytesMut) -> io::Result<usize> {
        loop {
            if self.rest.is_none() && self.ended.is_cancelled() {
                let bytes = if self.is_direct { self.from.readable() } else { None };
                self.rest = Some(Rest { bytes, until: Instant::now() + LATEST });
            }
            let Some(rest) = &mut self.rest else {
                tokio::select! {
                    biased;
                    read = self.from.read(buffer) => return read,
                    () = self.ended.cancelled() => continue,
                }
            };
            if rest.bytes == Some(0) || Instant::now() >= rest.until {
                return Ok(0);
            }
            let read = tokio::time::timeout(QUIET, self.from.read(buffer)).await.unwrap_or(Ok(0))?;
            if let Some(bytes) = &mut rest.bytes {
                *bytes = bytes.saturating_sub(read as u64);
            }
            return Ok(read);
        }
    }
}

/// Where the input of a process goes.
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

/// Until the client sends no more, or the process reads no more. A pipe ends then; a terminal does not: there
/// the user types ^D.
pub(super) async fn copy_input(from: Option<StreamReader>, to: Option<Sink>) {
    let (Some(mut from), Some(mut to)) = (from, to) else { return };
    while let Ok(Some(bytes)) = from.read().await {
        if to.write_all(&bytes).await.is_err() {
            return;
        }
    }
}

/// Until the process's output is over, or the client takes no more of it: then the process gets SIGPIPE. When
/// it is the client that is gone, what comes is thrown away, unless it is a terminal's.
pub(super) async fn copy_output(source: &mut Option<Source>, to: Option<StreamWriter>, ended: &Cancel) {
    let (Some(from), Some(mut to)) = (source.as_mut(), to) else { return };
    let is_terminal = matches!(from, Source::Terminal(_));
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
            Ok(()) => {}
            Err(StreamError::Lost) if is_terminal => return,
            Err(StreamError::Lost) => {}
            Err(StreamError::Reset) => {
                *source = None;
                return;
            }
        }
    }
    let _ = to.close().await;
}

/// Reads output that has no client any more, so that what a command says at its end does not end it early.
/// A terminal is not read: it is hung up by closing it.
pub(super) async fn discard(from: &mut Option<Source>) {
    let Some(from @ Source::Pipe(_)) = from else { return };
    let mut buffer = BytesMut::with_capacity(READ);
    while let Ok(1..) = from.read(&mut buffer).await {
        buffer.clear();
    }
}

/// Until the client sends no more sizes.
pub(super) async fn copy_sizes(from: Option<Resizes>, to: Option<&Terminal>) {
    let (Some(mut from), Some(to)) = (from, to) else { return };
    while let Some(size) = from.next().await {
        to.resize(size);
    }
}
