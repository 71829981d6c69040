//! A further process in a container. It belongs to the connection that requested it.

use crisp_executor::id::ContainerId;
use rustix::fd::OwnedFd;
use rustix::process::{Pid, Signal, kill_process_group, pidfd_send_signal};

use crate::launch::Launch;
use crate::poller::Key;

pub(crate) struct Exec {
    /// As the client calls it.
    pub(crate) id: u64,
    pub(crate) connection: Key,
    pub(crate) container: ContainerId,
    pub(crate) pid: i32,
    pub(crate) pidfd: OwnedFd,
    /// Until it has exec'd.
    pub(crate) launch: Option<Launch>,
}

impl Exec {
    pub(crate) fn kill(&self) {
        if let Some(pid) = Pid::from_raw(self.pid) {
            // It leads a session and so a group of its own.
            let _ = kill_process_group(pid, Signal::KILL);
        }
        let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
    }
}
