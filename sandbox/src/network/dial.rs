//! Connects to ports on a pod's loopback addresses.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::net::{TcpSocket, TcpStream};

/// Time limit for one address. On loopback a response takes microseconds, but a server with a full queue of
/// connections does not respond, and the kernel retries after 1, 3, 7 and 15 seconds.
const DEADLINE: Duration = Duration::from_secs(30);

/// The reason why no connection was made.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    #[error("cannot make a socket in the pod's network: {0}")]
    Socket(io::Error),
    #[error("cannot connect to port {port} in the pod: 127.0.0.1: {ipv4}; [::1]: {ipv6}")]
    Connect { port: u16, ipv4: io::Error, ipv6: io::Error },
}

/// Makes connections in one network.
#[derive(Debug, Clone)]
pub struct Dialer {
    /// None for the server's own network, which host-network pods share.
    netns: Option<Arc<OwnedFd>>,
}

impl Dialer {
    /// `netns` is the pod's network namespace; None for a pod on the host's network.
    #[must_use]
    pub fn new(netns: Option<OwnedFd>) -> Self {
        Self { netns: netns.map(Arc::new) }
    }

    /// Connects to 127.0.0.1, or else to ::1.
    ///
    /// # Errors
    /// [`DialError`].
    pub async fn connect(&self, port: u16) -> Result<TcpStream, DialError> {
        let ipv4 = self.try_connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await?;
        let ipv4 = match ipv4 {
            Ok(stream) => return Ok(stream),
            Err(error) => error,
        };
        match self.try_connect(SocketAddr::from((Ipv6Addr::LOCALHOST, port))).await? {
            Ok(stream) => Ok(stream),
            Err(ipv6) => Err(DialError::Connect { port, ipv4, ipv6 }),
        }
    }

    async fn try_connect(&self, address: SocketAddr) -> Result<io::Result<TcpStream>, DialError> {
        let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let socket = match self.socket(family).await {
            Ok(socket) => socket,
            // A kernel without IPv6.
            Err(error) if address.is_ipv6() => return Ok(Err(error)),
            Err(error) => return Err(DialError::Socket(error)),
        };
        let socket = TcpSocket::from_std_stream(std::net::TcpStream::from(socket));
        let connect = tokio::time::timeout(DEADLINE, socket.connect(address));
        Ok(connect.await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())))
    }

    async fn socket(&self, family: AddressFamily) -> io::Result<OwnedFd> {
        let Some(netns) = self.netns.clone() else { return Ok(tcp(family)?) };
        let (sender, made) = tokio::sync::oneshot::channel();
        // A separate thread: a thread that has entered a pod's network must do nothing else.
        std::thread::Builder::new().name("crisp-dial".to_owned()).spawn(move || {
            let entered = move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network));
            // Fails when the other side no longer waits, which is fine.
            let _ = sender.send(entered.and_then(|()| tcp(family)));
        })?;
        Ok(made.await.map_err(io::Error::other)??)
    }
}

fn tcp(family: AddressFamily) -> Result<OwnedFd, rustix::io::Errno> {
    socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)
}
