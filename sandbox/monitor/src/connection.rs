//! A connected server. It never blocks the monitor.

use std::collections::VecDeque;

use crisp_monitor::wire::{Header, Packet, ReceiveError, packet};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::process::Pid;

use crate::sys;

/// A client that is further behind is disconnected: it connects again and requests a report.
const QUEUE: usize = 256;

pub(crate) struct Connection {
    socket: OwnedFd,
    /// The server's process, when it is in a PID namespace that is visible here.
    server: Option<Pid>,
    queue: VecDeque<Outgoing>,
    /// Whether it is polled for room for the queue, too.
    pub(crate) waits_for_room: bool,
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
        let server = sys::peer(&socket);
        Self { socket, server, queue: VecDeque::new(), waits_for_room: false }
    }

    pub(crate) fn socket(&self) -> &OwnedFd {
        &self.socket
    }

    pub(crate) fn backed_up(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Whether the server has ended, or is ending: a process is marked as exiting before the kernel closes its first
    /// descriptor. Requests that it has sent before may be unread. `proc` is the host's.
    pub(crate) fn server_is_ending(&self, proc: Option<BorrowedFd<'_>>) -> bool {
        // In this order: before another process can have the number, the connection has ended.
        self.server.zip(proc).is_some_and(|(server, proc)| is_exiting(server, proc)) || self.has_ended()
    }

    fn has_ended(&self) -> bool {
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

/// The flag of an exiting process in its `stat` file.
const PF_EXITING: u32 = 0x4;

/// Whether the process is known to exit. When it is gone, its connections have ended.
fn is_exiting(pid: Pid, proc: BorrowedFd<'_>) -> bool {
    let path = format!("{}/stat", pid.as_raw_nonzero());
    let Ok(file) = openat(proc, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()) else { return false };
    let mut stat = [0; 512];
    let Ok(length) = rustix::io::read(&file, &mut stat) else { return false };
    flags(&stat[..length]).is_some_and(|flags| flags & PF_EXITING != 0)
}

/// The ninth field of a `stat` file. The second one is a name in parentheses, which may contain any character.
fn flags(stat: &[u8]) -> Option<u32> {
    let name_end = stat.iter().rposition(|&byte| byte == b')')?;
    let fields = std::str::from_utf8(&stat[name_end + 1..]).ok()?;
    fields.split_ascii_whitespace().nth(6)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use crisp_monitor::wire::Op;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    use super::*;

    #[test]
    fn the_end_of_a_server_is_known_while_its_descriptors_are_open() {
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::NONBLOCK, None).unwrap();
        let proc = rustix::fs::open("/proc", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
        let proc = Some(proc.as_fd());
        let mut connection = Connection::new(ours);
        assert_eq!(connection.server, Some(rustix::process::getpid()));
        assert!(!connection.server_is_ending(proc), "this process lives");
        let mut child = std::process::Command::new("true").spawn().unwrap();
        connection.server = Pid::from_child(&child).into();
        while !connection.server_is_ending(proc) {
            std::thread::yield_now();
        }
        assert!(!connection.server_is_ending(None), "nothing says so without /proc");
        child.wait().unwrap();
        drop(theirs);
        assert!(connection.server_is_ending(None), "its connection has ended");
    }

    #[test]
    fn flags_stand_behind_any_name() {
        assert_eq!(flags(b"7 (a) R 1 2) S 1 7 7 0 -1 4194564 110 0"), Some(4_194_564));
        assert_eq!(flags(b"7 (a) S 1 7 7 0 -1"), None);
        assert_eq!(flags(b"7"), None);
    }

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
