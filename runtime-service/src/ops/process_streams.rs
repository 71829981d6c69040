//! Bytes between a process and a streaming client, in both directions.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use crisp_executor::id::PodId;
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
/// After the process's end, its output is over when nothing comes for so long: a process that it left
/// behind may hold the pipe.
const QUIET: Duration = Duration::from_millis(200);
/// What a pipe can hold at most when the process ends. What comes later is of others.
const LEFT: usize = 1 << 20;

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
/// it is the connection that is lost, `source` is left as it is.
pub(super) async fn copy_output(source: &mut Option<Source>, to: Option<StreamWriter>, ended: &Cancel) {
    let (Some(from), Some(mut to)) = (source.as_mut(), to) else { return };
    let mut buffer = BytesMut::new();
    let mut left = LEFT;
    loop {
        buffer.clear();
        buffer.reserve(READ);
        let read = tokio::select! {
            biased;
            read = from.read(&mut buffer) => read,
            () = quiet_after(ended) => break,
        };
        let Ok(bytes @ 1..) = read else { break };
        if ended.is_cancelled() {
            let Some(fewer) = left.checked_sub(bytes) else { break };
            left = fewer;
        }
        match to.write(&buffer).await {
            Ok(()) => {}
            Err(StreamError::Lost) => return,
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
pub(super) async fn discard(from: Option<Source>) {
    let Some(mut from @ Source::Pipe(_)) = from else { return };
    let mut buffer = BytesMut::with_capacity(READ);
    while let Ok(1..) = from.read(&mut buffer).await {
        buffer.clear();
    }
}

/// After the process's end, its output is over when nothing comes for a while.
pub(super) async fn quiet_after(ended: &Cancel) {
    ended.cancelled().await;
    tokio::time::sleep(QUIET).await;
}

/// Until the client sends no more sizes.
pub(super) async fn copy_sizes(from: Option<Resizes>, to: Option<&Terminal>) {
    let (Some(mut from), Some(to)) = (from, to) else { return };
    while let Some(size) = from.next().await {
        to.resize(size);
    }
}
