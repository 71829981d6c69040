use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with, sockopt,
};

use super::message::{Messages, Received, received, u32_at};

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_DUMP_INTR: u16 = 0x10;

/// Time limit; normally the kernel answers at once.
const ANSWER_DEADLINE: Duration = Duration::from_secs(10);
/// Holds what the kernel puts into one datagram of a list.
const DATAGRAM: usize = 32 * 1024;
/// The minimal default size of a socket's buffer: net.core.wmem_default.
const SEND_BUFFER: usize = 212_992;
/// Memory of the responses as a multiple of the messages.
const ANSWER_ROOM: usize = 16;
/// How often a list is read again when it changes during the read.
const DUMP_ATTEMPTS: u32 = 5;

/// The reason why the kernel did not execute a message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NetlinkError {
    /// Refused by the kernel.
    #[error("{step}: {errno}")]
    Refused {
        /// The message's name.
        step: &'static str,
        /// The kernel's error.
        errno: Errno,
    },
    /// The socket itself failed.
    #[error("netlink socket: {0}")]
    Socket(Errno),
    /// A response that is not valid.
    #[error("{0}: the kernel's answer is not understood")]
    Malformed(&'static str),
}

impl NetlinkError {
    /// The error number, if the kernel returned one.
    #[must_use]
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Refused { errno, .. } | Self::Socket(errno) => Some(*errno),
            Self::Malformed(_) => None,
        }
    }
}

/// The part of the kernel to talk to.
#[derive(Debug, Clone, Copy)]
pub(in crate::network) enum Protocol {
    Route,
    Netfilter,
    SocketDiagnosis,
}

/// A netlink socket with its sequence counter. It belongs to the namespace in which it was opened, in every
/// process.
#[derive(Debug)]
pub(in crate::network) struct Socket {
    fd: OwnedFd,
    seq: u32,
}

impl Socket {
    pub(in crate::network) fn open(protocol: Protocol) -> Result<Self, NetlinkError> {
        let protocol = match protocol {
            Protocol::Route => None,
            Protocol::Netfilter => Some(netlink::NETFILTER),
            Protocol::SocketDiagnosis => Some(netlink::SOCK_DIAG),
        };
        let fd = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)
            .map_err(NetlinkError::Socket)?;
        Ok(Self::from_fd(fd))
    }

    /// Takes over a socket opened elsewhere.
    pub(in crate::network) fn from_fd(fd: OwnedFd) -> Self {
        // Without a time limit, a lost response would block a thread forever; a socket that refuses the
        // option still works.
        let _ = sockopt::set_socket_timeout(&fd, sockopt::Timeout::Recv, Some(ANSWER_DEADLINE));
        Self { fd, seq: 1 }
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Sends the messages and waits for all their responses. Returns the first failure, after all messages
    /// were executed.
    pub(in crate::network) fn run(&mut self, messages: Messages) -> Result<(), NetlinkError> {
        self.run_with(messages, |_, _| {})
    }

    /// As [`Self::run`]; `each` sees the type and payload of everything that is not an acknowledgement.
    pub(in crate::network) fn run_with(
        &mut self,
        mut messages: Messages,
        mut each: impl FnMut(u16, &[u8]),
    ) -> Result<(), NetlinkError> {
        if messages.entries.is_empty() {
            return Ok(());
        }
        let first = self.seq;
        let count = u32::try_from(messages.entries.len()).unwrap_or(u32::MAX);
        self.seq = self.seq.wrapping_add(count).max(1);
        messages.seal(first);
        self.make_room(messages.bytes.len());
        send(&self.fd, &messages.bytes, SendFlags::empty()).map_err(NetlinkError::Socket)?;
        let mut answers =
            Responses { messages: &messages, first, open: 0, failure: None, interrupted: false };
        answers.open = messages.entries.iter().filter(|e| e.answered).count();
        // On the stack: an allocation of this size would be mapped and unmapped by the kernel each time.
        let mut buffer = [const { MaybeUninit::uninit() }; DATAGRAM];
        while answers.open > 0 {
            let datagram = match recv(&self.fd, &mut buffer[..], RecvFlags::empty()) {
                Ok(((bytes, _), _)) => &*bytes,
                Err(Errno::INTR) => continue,
                Err(e) => return Err(answers.failure.unwrap_or(NetlinkError::Socket(e))),
            };
            for message in received(datagram) {
                answers.take(message, &mut each)?;
            }
        }
        match answers {
            Responses { failure: Some(error), .. } => Err(error),
            Responses { interrupted: true, .. } => {
                Err(NetlinkError::Refused { step: messages.entries[0].step, errno: Errno::INTR })
            }
            _ => Ok(()),
        }
    }

    /// The kernel receives all messages of a transaction in one datagram, which must fit into the send
    /// buffer. A refusal shows when they are sent.
    fn make_room(&self, bytes: usize) {
        if bytes > SEND_BUFFER / 2 {
            let _ = sockopt::set_socket_send_buffer_size_force(&self.fd, bytes + SEND_BUFFER);
            // Each message gets a response before the first one is read, and it is larger than a short
            // message.
            let _ = sockopt::set_socket_recv_buffer_size_force(&self.fd, ANSWER_ROOM * bytes);
        }
    }

    /// Reads a list, again when it changed meanwhile.
    pub(in crate::network) fn list<T>(
        &mut self,
        request: impl Fn(&mut Messages),
        mut parse: impl FnMut(u16, &[u8]) -> Option<T>,
    ) -> Result<Vec<T>, NetlinkError> {
        let mut attempt = 0;
        loop {
            attempt += 1;
            let mut messages = Messages::new();
            request(&mut messages);
            let mut found = Vec::new();
            match self.run_with(messages, |kind, payload| found.extend(parse(kind, payload))) {
                Err(NetlinkError::Refused { errno: Errno::INTR, .. }) if attempt < DUMP_ATTEMPTS => {}
                other => return other.map(|()| found),
            }
        }
    }
}

/// The pending responses, and the errors so far.
struct Responses<'a> {
    messages: &'a Messages,
    first: u32,
    open: usize,
    failure: Option<NetlinkError>,
    interrupted: bool,
}

impl Responses<'_> {
    fn take(&mut self, message: Received<'_>, each: &mut impl FnMut(u16, &[u8])) -> Result<(), NetlinkError> {
        // A response to an earlier request that timed out.
        let Some(entry) = self.messages.entries.get(message.seq.wrapping_sub(self.first) as usize).copied()
        else {
            return Ok(());
        };
        self.interrupted |= message.flags & NLM_F_DUMP_INTR != 0;
        match message.kind {
            NLMSG_ERROR | NLMSG_DONE => {
                // A list ends with DONE, whose number may be an error too.
                let code = u32_at(message.payload, 0).unwrap_or(0).cast_signed();
                if code != 0 && !entry.optional && self.failure.is_none() {
                    let errno = Errno::from_raw_os_error(code.wrapping_neg());
                    self.failure = Some(NetlinkError::Refused { step: entry.step, errno });
                }
                if entry.answered {
                    self.open -= 1;
                } else if let Some(error) = self.failure.take() {
                    // The frame of a batch failed, so the messages in it may never get a response.
                    return Err(error);
                }
            }
            kind => each(kind, message.payload),
        }
        Ok(())
    }
}
