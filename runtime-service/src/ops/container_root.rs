//! The root directory of a running container, as its first process sees it.

use std::os::fd::OwnedFd;

use crisp_executor::ids::ContainerId;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};

use super::pid_namespace;
use crate::cause::Cause;
use crate::service_state::ServiceState;

/// # Errors
/// The container does not run.
pub(super) fn open(service: &ServiceState, id: &ContainerId) -> Result<OwnedFd, Cause> {
    let pidfd = pid_namespace::pidfd_of_target(service, id)?;
    let pid = pid_namespace::pid_of_target(service, id)?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(format!("/proc/{pid}/root"), flags, Mode::empty())
        .map_err(Cause::system("open the container's root directory"))?;
    // While the process lives, its number cannot be reused.
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    let mut fds = [PollFd::new(&pidfd, PollFlags::IN)];
    match poll(&mut fds, Some(&now)) {
        Ok(0) => Ok(root),
        _ => Err(Cause::TargetNotRunning { target: id.clone() }),
    }
}
