//! The byte stream below a framing: TCP, TLS over TCP, or the bytes in a WebSocket.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsFd, OwnedFd};
use rustix::net::sockopt;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsStream;

use crate::tcp_table;

/// How often a connection that is not read is checked for its end.
const LOOK: Duration = Duration::from_secs(1);
/// How many closing times a peer gets that has received everything and still sends.
const MAX_CLOSING: usize = 10;
/// Finds a peer that vanished without closing its connection, after some minutes.
const KEEPALIVE: (Duration, Duration, u32) = (Duration::from_secs(30), Duration::from_secs(10), 6);

/// A byte stream in both directions.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Duplex for T {}

/// A connection as it was accepted or made.
pub enum Transport {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// Notices the end of a connection, also behind bytes that were not read yet: the peer has closed it, or no
/// bytes were sent in either direction for too long.
#[derive(Debug)]
pub struct Hangup {
    socket: Option<OwnedFd>,
    limits: IdleLimits,
    activity: Activity,
}

/// How long a peer may be inactive.
#[derive(Debug, Clone, Copy, Default)]
pub struct IdleLimits {
    /// The limit during the session. None: without limit.
    pub idle: Option<Duration>,
    /// The limit between the receipt of everything and the close. None: without limit.
    pub closing: Option<Duration>,
}

/// The time of the last activity on a connection.
#[derive(Debug, Clone)]
struct Activity {
    begun: Instant,
    /// In milliseconds after `begun`.
    last: Arc<AtomicU64>,
}

/// Sets the socket options of all connections: no delay for keystrokes, and keepalive to find peers that
/// vanished.
pub fn prepare(socket: &TcpStream, limits: IdleLimits) -> Hangup {
    let _ = socket.set_nodelay(true);
    let (first, between, count) = KEEPALIVE;
    let _ = sockopt::set_socket_keepalive(socket, true);
    let _ = sockopt::set_tcp_keepidle(socket, first);
    let _ = sockopt::set_tcp_keepintvl(socket, between);
    let _ = sockopt::set_tcp_keepcnt(socket, count);
    Hangup { socket: rustix::io::fcntl_dupfd_cloexec(socket, 3).ok(), limits, activity: Activity::new() }
}

impl Activity {
    fn new() -> Self {
        Self { begun: Instant::now(), last: Arc::default() }
    }

    fn note(&self) {
        let now = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(now, Ordering::Relaxed);
    }

    fn since(&self) -> Duration {
        self.begun.elapsed().saturating_sub(Duration::from_millis(self.last.load(Ordering::Relaxed)))
    }
}

impl Hangup {
    /// Wraps the connection, so that its bytes count as activity from now on.
    pub fn watch(&self, io: Box<dyn Duplex>) -> Box<dyn Duplex> {
        Box::new(Watched { io, activity: self.activity.clone() })
    }

    /// Returns when the peer has closed the connection, or at least its own side of it, or when it is idle.
    pub async fn wait(&self) {
        tokio::select! {
            () = self.closed() => {}
            () = self.idle() => {}
        }
    }

    /// Returns when the peer has closed the connection, or at least its own side of it.
    pub async fn closed(&self) {
        loop {
            tokio::time::sleep(LOOK).await;
            if self.is_closed() {
                return;
            }
        }
    }

    /// Returns when no bytes were sent in either direction for too long.
    pub async fn idle(&self) {
        loop {
            match self.rest() {
                None => std::future::pending().await,
                Some(Duration::ZERO) => return,
                Some(rest) => tokio::time::sleep(rest).await,
            }
        }
    }

    /// Returns when the peer has received everything, including the end, and has had time to close. Call it
    /// after everything was sent. A peer that reads slowly gets all the time that it needs.
    ///
    /// A peer that still sends gets some more time: closing a socket with unread bytes resets the connection,
    /// and a proxy before the peer then loses the bytes that it has not forwarded.
    pub async fn overdue(&self) {
        let Some(closing) = self.limits.closing else { return std::future::pending().await };
        loop {
            tokio::time::sleep(closing).await;
            let Some(socket) = self.socket.as_ref().and_then(|socket| socket.try_clone().ok()) else {
                return;
            };
            let is_taken = tokio::task::spawn_blocking(move || tcp_table::is_all_taken(&socket));
            if is_taken.await.unwrap_or(false) {
                break;
            }
        }
        self.quiet(closing).await;
    }

    /// Returns when the peer sends nothing more, or has sent for too long.
    async fn quiet(&self, closing: Duration) {
        for _ in 0..MAX_CLOSING {
            tokio::time::sleep(closing).await;
            if self.activity.since() >= closing {
                return;
            }
        }
    }

    fn rest(&self) -> Option<Duration> {
        Some(self.limits.idle?.saturating_sub(self.activity.since()))
    }

    fn is_closed(&self) -> bool {
        let Some(fd) = &self.socket else { return false };
        let mut fds = [PollFd::from_borrowed_fd(fd.as_fd(), PollFlags::RDHUP)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut fds, Some(&now)).is_ok_and(|ready| ready > 0)
    }
}

macro_rules! both {
    ($transport:expr, $stream:ident => $call:expr) => {
        match $transport.get_mut() {
            Transport::Plain($stream) => $call,
            Transport::Tls($stream) => $call,
        }
    };
}

impl AsyncRead for Transport {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        both!(self, stream => Pin::new(stream).poll_read(context, buffer))
    }
}

impl AsyncWrite for Transport {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        both!(self, stream => Pin::new(stream).poll_write(context, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        both!(self, stream => Pin::new(stream).poll_write_vectored(context, pieces))
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        both!(self, stream => Pin::new(stream).poll_flush(context))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        both!(self, stream => Pin::new(stream).poll_shutdown(context))
    }
}

/// A connection that records its activity.
struct Watched {
    io: Box<dyn Duplex>,
    activity: Activity,
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.io).poll_read(context, buffer);
        if read.is_ready() {
            self.activity.note();
        }
        read
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(context, bytes);
        if written.is_ready() {
            self.activity.note();
        }
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write_vectored(context, pieces);
        if written.is_ready() {
            self.activity.note();
        }
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}
