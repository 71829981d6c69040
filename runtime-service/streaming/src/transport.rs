//! The byte stream below a framing: TCP, TLS over it, or what a WebSocket carries.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsFd, OwnedFd};
use rustix::net::sockopt;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

/// How often a connection that is not read is looked at for its end.
const LOOK: Duration = Duration::from_secs(1);
/// A peer that vanished without a word is found after some minutes.
const KEEPALIVE: (Duration, Duration, u32) = (Duration::from_secs(30), Duration::from_secs(10), 6);

/// Bytes both ways.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Duplex for T {}

/// A connection as it was accepted.
pub enum Transport {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// Sees the end of a connection behind bytes that were not read yet.
#[derive(Debug)]
pub struct Hangup(Option<OwnedFd>);

/// Sets what all connections need: no delay of keystrokes, and an end to peers that vanished.
pub fn prepare(socket: &TcpStream) -> Hangup {
    let _ = socket.set_nodelay(true);
    let (idle, between, count) = KEEPALIVE;
    let _ = sockopt::set_socket_keepalive(socket, true);
    let _ = sockopt::set_tcp_keepidle(socket, idle);
    let _ = sockopt::set_tcp_keepintvl(socket, between);
    let _ = sockopt::set_tcp_keepcnt(socket, count);
    Hangup(rustix::io::fcntl_dupfd_cloexec(socket, 3).ok())
}

impl Hangup {
    /// Returns when the peer has closed the connection, or at least its side of it.
    pub async fn wait(&self) {
        loop {
            tokio::time::sleep(LOOK).await;
            if self.is_closed() {
                return;
            }
        }
    }

    fn is_closed(&self) -> bool {
        let Some(fd) = &self.0 else { return false };
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

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        both!(self, stream => Pin::new(stream).poll_flush(context))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        both!(self, stream => Pin::new(stream).poll_shutdown(context))
    }
}
