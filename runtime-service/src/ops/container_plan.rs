//! The plan of a container's first process: its spec, compiled with its root, its cgroup and its mounts.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use crisp_executor::cgroup::JoinFds;
use crisp_executor::compile::{self, Compiled, HookInputs, Inputs};
use crisp_executor::plan::PidNamespace;
use crisp_executor::user_namespace::UserNamespace;
use crisp_sandbox::{NamespaceMode, Pod};
use oci_spec::runtime::Spec;

use super::{mounted_image, pid_namespace};
use crate::cause::Cause;
use crate::cdi::Edits;
use crate::container::config::{AppArmorRequest, SeccompRequest};
use crate::container::{Container, ContainerMetadata};
use crate::service_state::{PREPARED_VOLUMES, ServiceState};

/// Time limit for opening all volumes; a dead one is abandoned then.
const SOURCES: Duration = Duration::from_secs(20);

/// Compiles the spec. Blocks: opens the volumes.
///
/// # Errors
/// A field of the spec or a volume cannot be used, or a process whose namespace is joined does not run.
pub(super) fn compile(
    service: &ServiceState,
    container: &Container,
    pod: &Pod,
    spec: &Spec,
    (root, cgroup): (OwnedFd, JoinFds),
    hooks: Option<HookInputs<'_>>,
) -> Result<Compiled, Cause> {
    let target = |target| pid_namespace::pidfd_of_target(service, &target);
    let user = user_namespace(pod)?;
    let inputs = Inputs {
        root,
        cgroups: service.cgroups.clone(),
        cgroup,
        pid: container.metadata.pid.clone().try_map(target)?,
        user: user.as_deref(),
        mounts: mounted_image::mount(container, user.as_deref().map(AsFd::as_fd))?,
        pod_shm: pod.config.ipc == NamespaceMode::Pod,
        standalone: false,
        hooks,
        source_deadline: SOURCES,
    };
    Ok(compile::compile(spec, inputs)?)
}

/// The pod's user namespace. None for the host's.
///
/// # Errors
/// The monitor has ended.
pub(super) fn user_namespace(pod: &Pod) -> Result<Option<Arc<UserNamespace>>, Cause> {
    pod.user_namespace().map_err(|error| Cause::file(format!("user namespace of pod {}", pod.id))(error))
}

/// Whether the plan stays the same until the start, unless the limits are changed: everything in it is from
/// the request, the image and the pod, and not from devices, volumes, profiles and processes of the host.
pub(super) fn is_fixed(metadata: &ContainerMetadata, pod: &Pod) -> bool {
    let config = &metadata.config;
    let security = &config.security;
    let devices = security.privileged || !config.devices.is_empty() || metadata.cdi != Edits::default();
    let volumes = !config.mounts.is_empty()
        || metadata.volumes.len() > PREPARED_VOLUMES
        || pod.config.ipc == NamespaceMode::Host;
    let profiles = matches!(security.seccomp, SeccompRequest::Localhost(_))
        || matches!(security.apparmor, AppArmorRequest::Localhost(_));
    let processes = matches!(metadata.pid, PidNamespace::Target(_)) || pod.config.user.is_some();
    !(devices || volumes || profiles || processes)
}
