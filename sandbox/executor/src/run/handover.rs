//! A child of the monitor that another child makes, in a user namespace, and ends.
//!
//! ```text
//!  monitor --clone--> builder, with the host's rights
//!     ^                  | setns(user), clone3(PARENT) --> child of the monitor, born in the user namespace
//!     +-- pid, pidfd ----+ ends
//! ```
//!
//! A process can only leave the host's user namespace for good, and what is to belong to the other one has to
//! be made from inside of it. The monitor waits for the builder, which does nothing that could hang.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::{Errno, retry_on_intr};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use rustix::thread::{
    Gid, LinkNameSpaceType, Uid, move_into_link_name_space, set_thread_groups, set_thread_res_gid,
    set_thread_res_uid,
};

use super::error::{At, Stage, StageError};
use super::report::{Progress, Report};
use crate::sys::{self, Cloned};
use crate::user_namespace::UserNamespace;

/// The builder's end. The other one hears when the last copy of it is closed.
pub(crate) struct Sender(OwnedFd);

/// The monitor's end.
pub(crate) struct Receiver(OwnedFd);

pub(crate) fn pair() -> Result<(Sender, Receiver), StageError> {
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .at(Stage::UserNamespace, "make a socket")?;
    Ok((Sender(theirs), Receiver(ours)))
}

impl AsFd for Sender {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Receiver {
    /// Waits for the process that the builder makes. `report`: the builder's.
    pub(crate) fn wait(self, report: &Report) -> Result<(i32, OwnedFd), StageError> {
        let mut bytes = [0; 4];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC;
        let got = retry_on_intr(|| recvmsg(&self.0, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags));
        let got = got.at(Stage::UserNamespace, "wait for the builder")?.bytes;
        let pidfd = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        });
        match pidfd {
            Some(pidfd) if got == bytes.len() => Ok((i32::from_ne_bytes(bytes), pidfd)),
            Some(_) => Err(StageError::new(Stage::UserNamespace, Errno::BADMSG, "wait for the builder")),
            None => {
                let killed = "of the pod: the process that was to enter it has been killed";
                let killed = StageError::explained(Stage::UserNamespace, Errno::CHILD, killed);
                Err(failure(report, killed))
            }
        }
    }
}

/// Why a process ended before it made another; `killed` when it could not report it.
pub(crate) fn failure(report: &Report, killed: StageError) -> StageError {
    loop {
        match report.receive() {
            Ok(Progress::Failed(error)) => return error,
            Ok(Progress::Notes(_) | Progress::Terminal(_)) => {}
            Ok(Progress::Pending | Progress::Prepared | Progress::Waiting | Progress::Executed) | Err(_) => {
                return killed;
            }
        }
    }
}

/// In the builder: makes a child of its parent in `user`, with namespaces as `flags` (CLONE_NEW*) say, and
/// ends. Returns in that child, which is root in there and nothing outside.
pub(crate) fn continue_inside(user: &UserNamespace, flags: u64, sender: &Sender) -> Result<(), StageError> {
    enter(user.as_fd())?;
    match sys::clone3(flags | libc::CLONE_PARENT as u64, None).at(Stage::Clone, "process")? {
        Cloned::Child => Ok(()),
        Cloned::Parent { pid, pidfd } => {
            // When the monitor is gone there is none to be told.
            let _ = send(&sender.0, pid, pidfd.as_fd());
            sys::exit(0)
        }
    }
}

/// Enters a user namespace as its root.
pub(crate) fn enter(user: BorrowedFd<'_>) -> Result<(), StageError> {
    let at = Stage::UserNamespace;
    move_into_link_name_space(user, Some(LinkNameSpaceType::User)).at(at, "of the pod")?;
    become_root()
}

/// Until then the process is a user that does not exist in its user namespace: what it made would be no one's.
pub(crate) fn become_root() -> Result<(), StageError> {
    let at = Stage::UserNamespace;
    set_thread_groups(&[]).at(at, "of the pod: give up groups")?;
    set_thread_res_gid(Gid::ROOT, Gid::ROOT, Gid::ROOT).at(at, "of the pod: become group 0")?;
    set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT).at(at, "of the pod: become user 0")?;
    // A change of user sets it to what the host has for such programs (fs.suid_dumpable).
    set_dumpable_behavior(DumpableBehavior::NotDumpable).at(at, "hide from other processes")
}

fn send(socket: &OwnedFd, pid: i32, pidfd: BorrowedFd<'_>) -> Result<(), Errno> {
    let bytes = pid.to_ne_bytes();
    let fds = [pidfd];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(&fds));
    retry_on_intr(|| sendmsg(socket, &[IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL)).map(drop)
}
