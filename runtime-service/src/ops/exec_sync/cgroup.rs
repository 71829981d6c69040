//! What marks the processes of one exec, so that a deadline ends them all.

use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use crisp_executor::cgroup::Group;
use crisp_executor::plan::{CgroupJoin, FdIndex};
use crisp_sandbox::Pod;

use crate::container::Container;
use crate::service_state::{ServiceState, cgroup_path};
use crate::stage::Cause;

/// The mark on all processes of one exec.
pub(super) struct ExecCgroup {
    container: Arc<Container>,
    /// None once given away.
    group: Option<Group>,
}

impl ExecCgroup {
    /// Ends them, beside whoever waits.
    pub(super) fn kill(&mut self) {
        let Some(group) = self.group.take() else { return };
        let container = self.container.clone();
        tokio::task::spawn_blocking(move || {
            if let Err(error) = group.kill() {
                tracing::warn!(container = %container.id(), %error, "cannot end all that an exec started");
            }
            give_back(&container, group);
        });
    }
}

impl Drop for ExecCgroup {
    /// The usual end: whoever the command left behind may live on.
    fn drop(&mut self) {
        if let Some(group) = self.group.take() {
            give_back(&self.container, group);
        }
    }
}

/// A mark that is still on somebody is tried again with the next exec, so that probes which leave
/// processes behind do not leave cgroups behind for ever.
fn give_back(container: &Container, group: Group) {
    let mut left = container.exec_cgroups.lock().unwrap_or_else(PoisonError::into_inner);
    left.push(group);
    left.retain(|group| matches!(group.remove_if_empty(), Ok(false)));
}

/// A new mark in the container's cgroup, with what a process needs to bear it.
pub(super) fn join(
    service: &ServiceState,
    container: &Arc<Container>,
    pod: &Pod,
) -> Result<(ExecCgroup, CgroupJoin, Vec<OwnedFd>), Cause> {
    let cgroup = service.cgroups.open(&cgroup_path(pod, container.id())?)?;
    let number = service.exec_number.fetch_add(1, Ordering::Relaxed);
    let group = cgroup.group(&format!("exec-{number}"))?;
    let joined = group.join();
    let mark = ExecCgroup { container: container.clone(), group: Some(group) };
    let joined = joined?;
    let mut fds = Vec::new();
    let mut index = |fd: OwnedFd| {
        fds.push(fd);
        FdIndex(u16::try_from(fds.len() - 1).unwrap_or(u16::MAX))
    };
    let join = CgroupJoin {
        v2: joined.v2.map(&mut index),
        v1_tasks: joined.v1_tasks.into_iter().map(&mut index).collect(),
        oom_events: None,
    };
    Ok((mark, join, fds))
}
