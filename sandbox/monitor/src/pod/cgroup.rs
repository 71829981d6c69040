//! The monitor's own place among the cgroups.

use crisp_monitor::wire::Failure;
use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags, openat};

use super::failed;

/// Moves the monitor. On v1 by way of `tasks`: for a thread that moves itself the kernel skips the
/// global lock that `cgroup.procs` takes, and the monitor has one thread only.
pub(super) fn join(v2: Option<&OwnedFd>, v1_tasks: &[OwnedFd]) -> Result<(), Failure> {
    for tasks in v1_tasks {
        rustix::io::write(tasks, b"0").map_err(failed("join a v1 cgroup"))?;
    }
    let Some(v2) = v2 else { return Ok(()) };
    let flags = OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let procs = openat(v2, c"cgroup.procs", flags, Mode::empty());
    let procs = procs.map_err(failed("open cgroup.procs of the pod"))?;
    rustix::io::write(&procs, b"0").map_err(failed("join the v2 cgroup"))?;
    Ok(())
}
