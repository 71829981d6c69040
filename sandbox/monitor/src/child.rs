//! A child of the monitor: the process of a container or an exec, or at first the helper that makes it.
//!
//! ```text
//!  helper --has made it, has closed the report--> process --reaped--> gone
//!     | \--the process is reaped first--> helper is killed --reaped--> gone, as the process ended
//!     +--reaped, has made none--> gone
//! ```

use crisp_executor::run::Helper;
use crisp_executor::run::unseen::pidfd_of_child;
use crisp_monitor::wire::ExitStatus;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
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
    /// The process and its end, while the helper has not been reaped: it still has the report.
    ended: Option<(i32, ExitStatus)>,
    /// Its number may be another's from now on.
    is_reaped: bool,
}

impl Child {
    pub(crate) fn new(pid: i32, pidfd: OwnedFd, helper: Option<Helper>) -> Self {
        Self { pid, pidfd, helper, early: None, ended: None, is_reaped: false }
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
        if self.ended.is_some() {
            return false;
        }
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

    /// Notes that the child `pid` was reaped. Returns the status if this has ended with it.
    pub(crate) fn ended_with(&mut self, pid: i32, status: ExitStatus) -> Option<ExitStatus> {
        if self.ended.is_none() && self.made() == Some(pid) {
            self.ended = Some((pid, status));
            let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
            return None;
        }
        if self.pid != pid {
            return None;
        }
        if let Some((process, status)) = self.ended.take() {
            (self.helper, self.pid, self.is_reaped) = (None, process, true);
            return Some(status);
        }
        self.is_reaped = self.helper.is_none() || !self.is_made();
        self.is_reaped.then_some(status)
    }

    /// Whether it has ended, perhaps without being reaped yet.
    pub(crate) fn has_ended(&self) -> bool {
        if self.helper.is_some() {
            return false;
        }
        let mut process = [PollFd::new(&self.pidfd, PollFlags::IN)];
        let polled = poll(&mut process, Some(&Timespec::default()));
        polled.is_ok() && process[0].revents().contains(PollFlags::IN)
    }

    pub(crate) fn signal(&mut self, signal: Signal) -> Result<(), Errno> {
        if self.ended.is_some() || self.is_reaped {
            return Err(Errno::SRCH);
        }
        if let Some(process) = self.made().and_then(Pid::from_raw) {
            let _ = kill_process(process, signal);
        } else if self.helper.is_some() && self.early != Some(Signal::KILL) {
            self.early = Some(signal);
        }
        pidfd_send_signal(&self.pidfd, signal)
    }

    /// Signals its process group: it leads a session and so its own group.
    pub(crate) fn signal_group(&mut self, signal: Signal) -> Result<(), Errno> {
        if self.helper.is_some() || self.is_reaped {
            return self.signal(signal);
        }
        kill_process_group(Pid::from_raw(self.pid).ok_or(Errno::SRCH)?, signal)
    }
}

#[cfg(test)]
mod tests {
    use rustix::process::getpid;

    use super::*;

    fn child(helper: i32, made: i32) -> Child {
        // Names no process: signals reach nothing.
        let nothing =
            rustix::fs::open("/dev/null", rustix::fs::OFlags::RDONLY, rustix::fs::Mode::empty()).unwrap();
        Child::new(helper, nothing, Some(Helper::that_made(made).unwrap()))
    }

    #[test]
    fn a_process_that_ends_before_its_helper_has_its_own_status() {
        let (helper, made, other) = (1 << 29, (1 << 29) + 1, (1 << 29) + 2);
        let mut child = child(helper, made);
        assert_eq!(child.ended_with(other, ExitStatus::Code(1)), None);
        assert_eq!(child.ended_with(made, ExitStatus::Code(3)), None, "its helper still has the report");
        assert!(!child.is_made());
        assert!(child.signal(Signal::KILL).is_err(), "the number may be another's");
        assert_eq!(child.ended_with(helper, ExitStatus::Signal(9)), Some(ExitStatus::Code(3)));
        assert_eq!((child.pid(), child.is_made()), (made, true));
    }

    #[test]
    fn a_helper_that_made_none_ends_as_itself() {
        let mut child = child(1 << 29, 0);
        assert_eq!(child.ended_with(1 << 29, ExitStatus::Signal(9)), Some(ExitStatus::Signal(9)));
    }

    #[test]
    fn a_number_that_is_no_child_is_not_believed() {
        assert!(pidfd_of_child(getpid().as_raw_nonzero().get()).is_err());
        assert!(pidfd_of_child(1).is_err());
    }
}
