//! A copy of this process as a child of its parent: how a fork server makes monitors.

use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::io::Errno;

use super::procfs::makes_those_of_others;
use super::spawn::{InCgroup, clone_into};
use crate::sys::{Cloned, ignored_signals};

/// Which of the two a process is after [`fork_sibling`].
#[derive(Debug)]
pub enum Sibling {
    /// The process that called.
    Caller(SiblingProcess),
    /// The copy.
    Copy,
}

/// A copy that was made.
#[derive(Debug)]
pub struct SiblingProcess {
    pub pid: i32,
    /// Names it for as long as it is kept: a child of the caller's parent.
    pub pidfd: OwnedFd,
    /// Whether it was born in the cgroup that it was to be in; the process can else move itself.
    pub in_cgroup: bool,
}

/// Copies this process, which has one thread, into a v2 cgroup. The parent of both reaps the copy.
///
/// # Errors
/// As clone3(2).
pub fn fork_sibling(cgroup: Option<BorrowedFd<'_>>) -> Result<Sibling, Errno> {
    // Asked once for all copies, each of which starts processes.
    ignored_signals();
    let _ = makes_those_of_others();
    let (cloned, joined) = clone_into(libc::CLONE_PARENT as u64, cgroup)?;
    Ok(match cloned {
        Cloned::Child => Sibling::Copy,
        Cloned::Parent { pid, pidfd } => {
            let in_cgroup = cgroup.is_some() && joined == InCgroup::Yes;
            Sibling::Caller(SiblingProcess { pid, pidfd, in_cgroup })
        }
    })
}
