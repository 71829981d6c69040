//! A connected server. It never blocks the monitor.

use std::collections::VecDeque;

use crisp_monitor::wire::{Header, Packet, ReceiveError, packet};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsFd, OwnedFd};
use rustix::io::Errno;

/// A client that is further behind is disconnected: it connects again and requests a report.
const QUEUE: usize = 256;

pub(crate) struct Connection {
    socket: OwnedFd,
    queue: VecDeque<Outgoing>,
}

struct Outgoing {
    header: Header,
    body: Vec<u8>,
    fds: Vec<OwnedFd>,
}

/// The connection cannot be used any more.
#[derive(Debug)]
pub(crate) struct ConnectionClosed;

impl Connection {
    /// `socket` must be non-blocking.
    pub(crate) fn new(socket: OwnedFd) -> Self {
        Self { socket, queue: VecDeque::new() }
    }

    pub(crate) fn socket(&self) -> &OwnedFd {
        &self.socket
    }

    pub(crate) fn backed_up(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Whether the client is gone. Requests that it has sent before may be unread.
    pub(crate) fn is_hung_up(&self) -> bool {
        let mut socket = [PollFd::new(&self.socket, PollFlags::empty())];
        let polled = poll(&mut socket, Some(&Timespec::default()));
        polled.is_ok() && socket[0].revents().intersects(PollFlags::HUP)
    }

    /// The next request, if there is one.
    pub(crate) fn receive(&self) -> Result<Option<Packet>, ConnectionClosed> {
        match packet::receive(&self.socket) {
            Ok(packet) => Ok(packet),
            Err(ReceiveError::Closed | ReceiveError::Malformed(_)) => Err(ConnectionClosed),
            Err(ReceiveError::TooLong { .. } | ReceiveError::System(_)) => Err(ConnectionClosed),
        }
    }

    /// Sends at once or, if the client is slow, later.
    pub(crate) fn send(
        &mut self,
        header: Header,
        body: Vec<u8>,
        fds: Vec<OwnedFd>,
    ) -> Result<(), ConnectionClosed> {
        if self.queue.len() >= QUEUE {
            return Err(ConnectionClosed);
        }
        self.queue.push_back(Outgoing { header, body, fds });
        self.flush()
    }

    /// Sends queued messages as far as possible.
    pub(crate) fn flush(&mut self) -> Result<(), ConnectionClosed> {
        while let Some(Outgoing { header, body, fds }) = self.queue.front() {
            let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
            match packet::send(&self.socket, *header, body, &fds) {
                Ok(()) => drop(self.queue.pop_front()),
                Err(Errno::AGAIN | Errno::NOBUFS) => return Ok(()),
                Err(_) => return Err(ConnectionClosed),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crisp_monitor::wire::Op;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    use super::*;

    #[test]
    fn a_client_that_does_not_read_is_cut_off_and_never_waited_for() {
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::NONBLOCK, None).unwrap();
        let mut connection = Connection::new(ours);
        let header = Header::request(Op::Hello, 1);
        let sent = (0..100_000).take_while(|_| connection.send(header, vec![0; 512], vec![]).is_ok()).count();
        assert!(sent > QUEUE && sent < 100_000, "{sent}");
        let mut read = 0;
        loop {
            while packet::receive(&theirs).unwrap().is_some() {
                read += 1;
            }
            if !connection.backed_up() {
                break;
            }
            connection.flush().unwrap();
        }
        assert_eq!(read, sent, "what was taken is whole");
    }
}
