//! The messages between a server and its fork server.
//!
//! A fork server is `crisp-pod` that has started and waits: with a socket as descriptor 0 and [`UNNAMED`]
//! instead of a pod's id. For each request it makes a copy of itself, which is the pod's monitor and a child
//! of the server: that takes a fifth of the time of running the program again, and the copy has already left
//! the host's mounts. It ends with its connection.
//!
//! Both are of the same build, so that these messages need no versions.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;

use crisp_executor::ids::PodId;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::{Errno, retry_on_intr};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize};

/// As long as an id, which replaces it in the arguments of a copy.
pub const UNNAMED: &str = "----------------------------------------------------------------";

/// A listening socket, a log and a cgroup.
const MAX_DESCRIPTORS: usize = 3;

/// A message.
#[derive(Debug, Serialize, Deserialize)]
enum Body {
    /// The fork server waits for requests.
    Ready,
    Fork {
        pod: PodId,
        network: bool,
    },
    Forked {
        pid: i32,
        in_cgroup: bool,
    },
    Failed {
        errno: i32,
    },
}

/// A request for a monitor.
#[derive(Debug)]
pub struct ForkRequest<Fd> {
    pub pod: PodId,
    /// It will make a network namespace, and may use the prepared one.
    pub network: bool,
    pub listener: Fd,
    /// The file for its descriptor 2.
    pub log: Fd,
    /// The v2 cgroup in which it is started.
    pub cgroup: Option<Fd>,
}

/// A new monitor.
#[derive(Debug)]
pub struct Forked {
    pub pid: i32,
    pub pidfd: OwnedFd,
    pub in_cgroup: bool,
}

/// The reason why there is no response, or no monitor.
#[derive(Debug, thiserror::Error)]
pub enum ForkError {
    #[error("the fork server has ended")]
    Ended,
    #[error("the fork server gives no answer in time")]
    Silent,
    #[error("clone: {}", std::io::Error::from(*errno))]
    Clone { errno: Errno },
    #[error("talk to the fork server: {}", std::io::Error::from(*errno))]
    Socket { errno: Errno },
}

impl From<Errno> for ForkError {
    fn from(errno: Errno) -> Self {
        match errno {
            Errno::PIPE | Errno::CONNRESET => Self::Ended,
            // From a socket with a timeout.
            Errno::AGAIN => Self::Silent,
            errno => Self::Socket { errno },
        }
    }
}

/// Reports that the fork server is ready.
///
/// # Errors
/// [`ForkError`].
pub fn send_ready(socket: impl AsFd) -> Result<(), ForkError> {
    send(socket, &Body::Ready, &[])
}

/// Waits until the fork server is ready.
///
/// # Errors
/// [`ForkError`].
pub fn receive_ready(socket: impl AsFd) -> Result<(), ForkError> {
    match receive(socket)? {
        (Body::Ready, _) => Ok(()),
        _ => Err(Errno::BADMSG.into()),
    }
}

/// Requests a monitor.
///
/// # Errors
/// [`ForkError`].
pub fn send_request(socket: impl AsFd, request: &ForkRequest<BorrowedFd<'_>>) -> Result<(), ForkError> {
    let fds: Vec<_> = [request.listener, request.log].into_iter().chain(request.cgroup).collect();
    send(socket, &Body::Fork { pod: request.pod.clone(), network: request.network }, &fds)
}

/// Waits for a request.
///
/// # Errors
/// [`ForkError`].
pub fn receive_request(socket: impl AsFd) -> Result<ForkRequest<OwnedFd>, ForkError> {
    let (Body::Fork { pod, network }, fds) = receive(socket)? else { return Err(Errno::BADMSG.into()) };
    let mut fds = fds.into_iter();
    let (Some(listener), Some(log)) = (fds.next(), fds.next()) else { return Err(Errno::MFILE.into()) };
    Ok(ForkRequest { pod, network, listener, log, cgroup: fds.next() })
}

/// Responds to a request.
///
/// # Errors
/// [`ForkError`].
pub fn send_response(socket: impl AsFd, answer: Result<&Forked, Errno>) -> Result<(), ForkError> {
    match answer {
        Ok(Forked { pid, pidfd, in_cgroup }) => {
            send(socket, &Body::Forked { pid: *pid, in_cgroup: *in_cgroup }, &[pidfd.as_fd()])
        }
        Err(errno) => send(socket, &Body::Failed { errno: errno.raw_os_error() }, &[]),
    }
}

/// Waits for the response to a request.
///
/// # Errors
/// [`ForkError`].
pub fn receive_response(socket: impl AsFd) -> Result<Forked, ForkError> {
    match receive(socket)? {
        (Body::Forked { pid, in_cgroup }, fds) => {
            let pidfd = fds.into_iter().next().ok_or(Errno::MFILE)?;
            Ok(Forked { pid, pidfd, in_cgroup })
        }
        (Body::Failed { errno }, _) => Err(ForkError::Clone { errno: Errno::from_raw_os_error(errno) }),
        _ => Err(Errno::BADMSG.into()),
    }
}

fn send(socket: impl AsFd, body: &Body, fds: &[BorrowedFd<'_>]) -> Result<(), ForkError> {
    let bytes = postcard::to_allocvec(body).map_err(|_| Errno::BADMSG)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(fds));
    }
    retry_on_intr(|| sendmsg(socket.as_fd(), &[IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL))?;
    Ok(())
}

fn receive(socket: impl AsFd) -> Result<(Body, Vec<OwnedFd>), ForkError> {
    let mut bytes = [0; 128];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC;
    let got =
        retry_on_intr(|| recvmsg(socket.as_fd(), &mut [IoSliceMut::new(&mut bytes)], &mut control, flags))?;
    if got.bytes == 0 {
        return Err(ForkError::Ended);
    }
    let rights = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(fds) => Some(fds),
        _ => None,
    });
    let fds = rights.flatten().collect();
    let body = postcard::from_bytes(&bytes[..got.bytes]).map_err(|_| Errno::BADMSG)?;
    Ok((body, fds))
}
