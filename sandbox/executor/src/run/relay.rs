//! The socket by which a copy of a process passes on what it has started, before it ends.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::{Errno, retry_on_intr};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use rustix::process::{WaitId, WaitIdOptions, waitid};
use serde::{Deserialize, Serialize};

use super::error::{At, Stage, StageError};

/// Longest packet.
const PACKET: usize = 8192;

/// The numbers come with a pidfd, the first one also with the report.
#[derive(Serialize, Deserialize)]
pub(super) enum Packet {
    Started(i32),
    /// The process with this number makes the one of the next packet.
    Helper(i32),
    Failed(StageError),
}

/// A received process.
pub(super) struct Received {
    pub kind: Kind,
    pub pid: i32,
    pub pidfd: OwnedFd,
    pub report: Option<OwnedFd>,
}

pub(super) enum Kind {
    Process,
    Helper,
}

/// The end of the receiver.
#[derive(Debug)]
pub(super) struct Relay {
    pub socket: OwnedFd,
    /// Names the copy.
    pub sender: OwnedFd,
}

impl Relay {
    /// Waits for the next packet.
    pub(super) fn receive(&self) -> Result<Received, StageError> {
        let at = Stage::Clone;
        let mut bytes = [0; PACKET];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC;
        let got =
            retry_on_intr(|| recvmsg(&self.socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags));
        let length = got.at(at, "wait for the helper")?.bytes;
        let rights = control.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(fds) => Some(fds),
            _ => None,
        });
        let mut fds = rights.flatten();
        let killed = || StageError::explained(at, Errno::CHILD, "process: the helper was killed");
        let (kind, pid) = match postcard::from_bytes(&bytes[..length]).map_err(|_| killed())? {
            Packet::Failed(error) => return Err(error),
            Packet::Started(pid) => (Kind::Process, pid),
            Packet::Helper(pid) => (Kind::Helper, pid),
        };
        let pidfd = fds.next().ok_or(Errno::MFILE).at(at, "receive the process")?;
        Ok(Received { kind, pid, pidfd, report: fds.next() })
    }

    /// Waits for the process that follows a helper, and for the end of the sender.
    pub(super) fn receive_last(self) -> Result<(i32, OwnedFd), StageError> {
        let received = self.receive();
        self.reap_sender();
        received.map(|Received { pid, pidfd, .. }| (pid, pidfd))
    }

    /// If this process ignores SIGCHLD, there is none to wait for.
    pub(super) fn reap_sender(&self) {
        let id = WaitId::PidFd(self.sender.as_fd());
        let _ = retry_on_intr(|| waitid(id.clone(), WaitIdOptions::EXITED));
    }
}

pub(super) fn send(socket: &OwnedFd, packet: &Packet, fds: &[BorrowedFd<'_>]) {
    let Ok(bytes) = postcard::to_allocvec(packet) else { return };
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(fds));
    }
    let _ = retry_on_intr(|| sendmsg(socket, &[IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL));
}
