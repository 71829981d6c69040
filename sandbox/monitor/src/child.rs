//! A child of the monitor: the process of a container or an exec, or at first the helper that makes it.
//!
//! ```text
//!  helper --has made it--> process --reaped--> gone
//!     +--reaped, has made none--> gone
//! ```

use crisp_executor::run::Helper;
use crisp_executor::run::unseen::pidfd_of_child;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process, kill_process_group, pidfd_send_signal};

pub(crate) struct Child {
    pid: i32,
    pidfd: OwnedFd,
    /// Until it is known to have made the process.
    helper: Option<Helper>,
    /// A signal that only the helper has got.
    early: Option<Signal>,
}

impl Child {
    pub(crate) fn new(pid: i32, pidfd: OwnedFd, helper: Option<Helper>) -> Self {
        Self { pid, pidfd, helper, early: None }
    }

    pub(crate) fn pid(&self) -> i32 {
        self.pid
    }

    pub(crate) fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    fn made(&self) -> Option<i32> {
        self.helper.as_ref().and_then(Helper::child)
    }

    /// Whether there is the process itself; from then on this is it. Nothing may have been reaped unnoticed.
    pub(crate) fn is_made(&mut self) -> bool {
        let Some(pid) = self.made() else { return self.helper.is_none() };
        (self.helper, self.pid) = (None, pid);
        // Without one it has been killed.
        if let Ok(pidfd) = pidfd_of_child(pid) {
            self.pidfd = pidfd;
        }
        if let Some(signal) = self.early.take() {
            let _ = self.signal(signal);
        }
        true
    }

    /// Notes that the child `pid` was reaped. Returns whether this has ended with it.
    pub(crate) fn has_ended_with(&mut self, pid: i32) -> bool {
        if self.made() == Some(pid) {
            // The helper is reaped later, as a child that is unknown.
            (self.helper, self.pid) = (None, pid);
            return true;
        }
        self.pid == pid && (self.helper.is_none() || !self.is_made())
    }

    pub(crate) fn signal(&mut self, signal: Signal) -> Result<(), Errno> {
        if let Some(process) = self.made().and_then(Pid::from_raw) {
            let _ = kill_process(process, signal);
        } else if self.helper.is_some() && self.early != Some(Signal::KILL) {
            self.early = Some(signal);
        }
        pidfd_send_signal(&self.pidfd, signal)
    }

    /// Signals its process group: it leads a session and so its own group.
    pub(crate) fn signal_group(&mut self, signal: Signal) -> Result<(), Errno> {
        if self.helper.is_some() {
            return self.signal(signal);
        }
        kill_process_group(Pid::from_raw(self.pid).ok_or(Errno::SRCH)?, signal)
    }
}
