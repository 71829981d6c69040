//! Sends a signal to a container's first process by the server itself, when the monitor does not answer.

use crisp_executor::pidfd_send_signal;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::container_cgroup;
use crate::cause::Cause;
use crate::container::Container;
use crate::container::signal::Signal;
use crate::service_state::ServiceState;

/// Sends `signal`. Returns false when the first process cannot be identified by its number and cgroup.
///
/// # Errors
/// The kernel's error.
pub(super) fn send(service: &ServiceState, container: &Container, signal: Signal) -> Result<bool, Cause> {
    let Some(pid) = container.status().state.pid() else { return Ok(false) };
    let Some(number) = Pid::from_raw(pid) else { return Ok(false) };
    let process = match pidfd_open(number, PidfdFlags::empty()) {
        Err(Errno::SRCH) => return Ok(false),
        opened => opened.map_err(Cause::system("open the container's first process"))?,
    };
    // Opened first: if a process with this number is in the cgroup now, it is the opened one, or the opened
    // one has ended.
    let Some(cgroup) = container_cgroup::open(service, container)? else { return Ok(false) };
    if !cgroup.pids()?.contains(&pid) {
        return Ok(false);
    }
    match pidfd_send_signal(&process, signal.number()) {
        Ok(()) => Ok(true),
        Err(Errno::SRCH) => Ok(false),
        Err(errno) => Err(Cause::system("send the container a signal")(errno)),
    }
}
