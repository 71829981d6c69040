//! Sends messages with their descriptors over a SOCK_SEQPACKET socket. Never blocks.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recv, recvmsg, sendmsg,
};

use super::{Header, MalformedHeader};

/// SCM_MAX_FD of the kernel.
pub const MAX_DESCRIPTORS: usize = 253;
/// Limit for a body. Below the smallest default socket buffer (208 KiB), so that a message can always be
/// sent.
pub const MAX_BODY: usize = 160 * 1024;

const CONTROL: usize = rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS));

/// A received message.
#[derive(Debug)]
pub struct Packet {
    pub header: Header,
    pub body: Vec<u8>,
    /// May have fewer than `header.descriptors`.
    pub fds: Vec<OwnedFd>,
}

/// The reason why no message was received.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveError {
    #[error("the other side closed the connection")]
    Closed,
    #[error(transparent)]
    Malformed(#[from] MalformedHeader),
    #[error("a message of {len} bytes is longer than any should be")]
    TooLong { len: usize },
    #[error("receiving failed: {0}")]
    System(Errno),
}

/// Sends one message completely, or nothing.
///
/// # Errors
/// `AGAIN` when the socket is full; `INVAL` for more than [`MAX_DESCRIPTORS`]; others as `sendmsg`.
pub fn send(socket: impl AsFd, header: Header, body: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), Errno> {
    if fds.len() > MAX_DESCRIPTORS {
        return Err(Errno::INVAL);
    }
    let header = Header { descriptors: u16::try_from(fds.len()).unwrap_or(u16::MAX), ..header }.to_bytes();
    let mut space = [MaybeUninit::uninit(); CONTROL];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(fds));
    }
    let parts = [IoSlice::new(&header), IoSlice::new(body)];
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    loop {
        match sendmsg(socket.as_fd(), &parts, &mut control, flags) {
            Err(Errno::INTR) => {}
            other => return other.map(drop),
        }
    }
}

/// Receives the next message, if there is one.
///
/// # Errors
/// [`ReceiveError`]; all except a malformed message mean that the connection cannot be used any more.
pub fn receive(socket: impl AsFd) -> Result<Option<Packet>, ReceiveError> {
    let socket = socket.as_fd();
    // Requests the length first: a buffer for the longest message would be most of a monitor's memory.
    let peek = RecvFlags::PEEK | RecvFlags::TRUNC | RecvFlags::DONTWAIT;
    let len = match recv(socket, &mut [0u8; 0][..], peek) {
        Ok((_, 0)) => return Err(ReceiveError::Closed),
        Ok((_, len)) if len > Header::LEN + MAX_BODY => return Err(ReceiveError::TooLong { len }),
        Ok((_, len)) => len,
        Err(Errno::AGAIN | Errno::INTR) => return Ok(None),
        Err(Errno::CONNRESET | Errno::PIPE) => return Err(ReceiveError::Closed),
        Err(errno) => return Err(ReceiveError::System(errno)),
    };
    let mut bytes = [0; Header::LEN];
    let mut body = vec![0; len.saturating_sub(Header::LEN)];
    let mut space = [MaybeUninit::uninit(); CONTROL];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [IoSliceMut::new(&mut bytes), IoSliceMut::new(&mut body)];
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let got = match recvmsg(socket, &mut parts, &mut control, flags) {
        Ok(message) => message.bytes,
        Err(Errno::AGAIN | Errno::INTR) => return Ok(None),
        Err(errno) => return Err(ReceiveError::System(errno)),
    };
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    if got < Header::LEN {
        return Err(MalformedHeader { len: got }.into());
    }
    Ok(Some(Packet { header: Header::parse(&bytes)?, body, fds }))
}

#[cfg(test)]
mod tests {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    use super::super::Op;
    use super::*;

    fn pair() -> (OwnedFd, OwnedFd) {
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap()
    }

    #[test]
    fn messages_keep_their_bounds_and_descriptors() {
        let (a, b) = pair();
        assert!(receive(&b).unwrap().is_none());
        let fds = vec![a.as_fd(); MAX_DESCRIPTORS];
        send(&a, Header::request(Op::Start, 1), b"first", &fds).unwrap();
        send(&a, Header::request(Op::Hello, 2), b"", &[]).unwrap();
        let first = receive(&b).unwrap().unwrap();
        assert_eq!((first.header.id, first.body.as_slice()), (1, b"first".as_slice()));
        assert_eq!((first.fds.len(), first.header.descriptors), (MAX_DESCRIPTORS, 253));
        let second = receive(&b).unwrap().unwrap();
        assert_eq!((second.header.id, second.body.len(), second.fds.len()), (2, 0, 0));
        drop((a, first));
        assert!(matches!(receive(&b), Err(ReceiveError::Closed)));
    }

    #[test]
    fn too_many_descriptors_are_refused_before_sending() {
        let (a, b) = pair();
        let fds = vec![b.as_fd(); MAX_DESCRIPTORS + 1];
        assert_eq!(send(&a, Header::event(), b"", &fds), Err(Errno::INVAL));
        assert!(receive(&b).unwrap().is_none());
    }

    #[test]
    fn the_longest_body_goes_through_and_a_short_message_is_malformed() {
        let (a, b) = pair();
        let body = vec![7; MAX_BODY];
        send(&a, Header::event(), &body, &[]).unwrap();
        assert_eq!(receive(&b).unwrap().unwrap().body, body);
        rustix::io::write(&a, b"short").unwrap();
        assert!(matches!(receive(&b), Err(ReceiveError::Malformed(_))));
    }

    #[test]
    fn a_full_socket_says_so() {
        let (a, _b) = pair();
        let full = (0..10_000).find_map(|_| send(&a, Header::event(), &[0; 1024], &[]).err());
        assert_eq!(full, Some(Errno::AGAIN));
    }
}
