//! The cgroup of a container.

use crisp_executor::cgroup::{Cgroup, CgroupError, JoinFds, Resources};
use crisp_sandbox::Pod;
use oci_spec::runtime::Spec;

use crate::cause::Cause;
use crate::container::Container;
use crate::service_state::{ServiceState, cgroup_path};

/// Makes the cgroup with the limits of `spec`, and opens the descriptors that a process needs to join it.
///
/// # Errors
/// The kernel refuses the folder or a limit.
pub(super) fn create(
    service: &ServiceState,
    container: &Container,
    pod: &Pod,
    spec: &Spec,
) -> Result<JoinFds, Cause> {
    let cgroup = pod.create_cgroup(&service.cgroups, &cgroup_path(pod, container.id())?)?;
    if let Some(limits) = spec.linux().as_ref().and_then(|linux| linux.resources().as_ref()) {
        cgroup.apply(&Resources::from_spec(limits)?)?;
    }
    Ok(cgroup.join()?)
}

/// Kills all processes in the cgroup and removes it; succeeds if it does not exist. Blocks until they are
/// gone.
///
/// # Errors
/// Processes do not end, or the folder cannot be removed.
pub(crate) fn remove(service: &ServiceState, container: &Container) -> Result<(), Cause> {
    let Some(cgroup) = open(service, container)? else { return Ok(()) };
    cgroup.kill()?;
    Ok(cgroup.remove()?)
}

/// Whether a process is in the cgroup, as far as that can be read.
pub(crate) fn is_in_use(service: &ServiceState, container: &Container) -> bool {
    let pids = open(service, container).ok().flatten().and_then(|cgroup| cgroup.pids().ok());
    pids.is_some_and(|pids| !pids.is_empty())
}

/// The cgroup, if it exists.
///
/// # Errors
/// The folder cannot be opened.
pub(super) fn open(service: &ServiceState, container: &Container) -> Result<Option<Cgroup>, Cause> {
    let of_pod = || service.pod_of(container).map(|pod| pod.cgroup_parent().clone());
    let Some(parent) = container.metadata.cgroup_parent.clone().or_else(of_pod) else { return Ok(None) };
    match service.cgroups.open(&parent.child(container.id().as_str())?) {
        Ok(cgroup) => Ok(Some(cgroup)),
        Err(CgroupError::NotFound { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
