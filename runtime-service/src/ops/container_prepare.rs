//! Prepares the parts of a start that do not depend on its time: the root file system as a detached mount,
//! and the cgroup with its limits. They are made after the response to CreateContainer, so that a start finds
//! them.
//!
//! ```text
//!   create ─> answer ─> in_background ─> Container::prepared ─┐
//!   start ─────────────────────────────────────────────── take <─┘   or makes both itself
//!   stop of the pod, removal ─────────────────────────── discard
//! ```

use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use crisp_executor::cgroup::JoinFds;
use crisp_executor::rootfs;
use crisp_executor::user_namespace::UserNamespace;
use crisp_sandbox::Pod;
use oci_spec::runtime::{LinuxResources, Spec};
use tokio::sync::OwnedSemaphorePermit;

use super::{container_cgroup, container_spec};
use crate::cause::{Cause, StageFailure, Steps};
use crate::container::state::State;
use crate::container::{Container, Prepared};
use crate::service_state::ServiceState;

const OPERATION: &str = "prepare_container";
/// Time limit for another operation on the container.
const LOCK: Duration = Duration::from_secs(30);
const DEADLINE: Duration = Duration::from_secs(60);

/// Prepares a container that has just been created, unless it is started before that begins.
pub(crate) fn in_background(service: &Arc<ServiceState>, container: &Arc<Container>, pod: &Arc<Pod>) {
    let (service, container, pod) = (service.clone(), container.clone(), pod.clone());
    tokio::spawn(async move {
        let id = container.id().clone();
        let Ok(lock) = service.locks.lock_within(id.clone(), OPERATION, LOCK).await else { return };
        if container.status().state != State::Created {
            return;
        }
        // Without a permit, the start makes everything itself.
        let Ok(permit) = service.prepared.clone().try_acquire_owned() else { return };
        let mut operation = service.operation(OPERATION, &id);
        operation.hold(lock);
        let work = move |steps: &Steps| prepare(&service, &container, &pod, permit, steps);
        let result = operation.blocking(DEADLINE, work).await;
        if let Err(error) = operation.finish(result).await {
            tracing::debug!(container = %id, %error, "not prepared; its start does it");
        }
    });
}

fn prepare(
    service: &Arc<ServiceState>,
    container: &Arc<Container>,
    pod: &Arc<Pod>,
    permit: OwnedSemaphorePermit,
    steps: &Steps,
) -> Result<(), StageFailure> {
    steps.step("pod", || Ok(pod.require_ready()?))?;
    undo_parent(service, pod, steps);
    undo(service, container, steps);
    let limits = container.status().resources.clone();
    let spec = steps.step("spec", || container_spec::build(service, &container.metadata, &limits, pod))?;
    let (root, cgroup) = make(service, container, pod, &spec, steps)?;
    let prepared = Prepared { root, cgroup, resources: resources_of(&spec), permit };
    *container.prepared.lock().unwrap_or_else(PoisonError::into_inner) = Some(prepared);
    // A stop of the pod after this check discards the prepared parts.
    steps.step("pod", || Ok(pod.require_ready()?))
}

/// The prepared parts; missing ones are made now.
///
/// # Errors
/// A stage failed.
pub(super) fn take(
    service: &Arc<ServiceState>,
    container: &Arc<Container>,
    pod: &Pod,
    spec: &Spec,
    steps: &Steps,
) -> Result<(OwnedFd, JoinFds), StageFailure> {
    let prepared = container.prepared.lock().unwrap_or_else(PoisonError::into_inner).take();
    match prepared {
        // A device may have another number by now, and limits may have been changed.
        Some(Prepared { root, cgroup, resources, .. }) if resources == resources_of(spec) => {
            Ok((root, cgroup))
        }
        Some(outdated) => {
            drop(outdated);
            steps.step("outdated cgroup", || container_cgroup::remove(service, container))?;
            make(service, container, pod, spec, steps)
        }
        None => make(service, container, pod, spec, steps),
    }
}

fn resources_of(spec: &Spec) -> Option<LinuxResources> {
    spec.linux().as_ref()?.resources().clone()
}

pub(super) fn is_prepared(container: &Container) -> bool {
    container.prepared.lock().unwrap_or_else(PoisonError::into_inner).is_some()
}

fn make(
    service: &Arc<ServiceState>,
    container: &Arc<Container>,
    pod: &Pod,
    spec: &Spec,
    steps: &Steps,
) -> Result<(OwnedFd, JoinFds), StageFailure> {
    let root = steps.step("root", || assemble(container, pod))?;
    let cgroup = steps.step("cgroup", || container_cgroup::create(service, container, pod, spec))?;
    Ok((root, cgroup))
}

/// Discards the prepared or new parts when a later step fails.
pub(super) fn undo(service: &Arc<ServiceState>, container: &Arc<Container>, steps: &Steps) {
    let (service, container) = (service.clone(), container.clone());
    steps.undo("cgroup", move || discard(&service, &container));
}

/// A stopped pod's cgroup was made again by the creation of one below it.
fn undo_parent(service: &Arc<ServiceState>, pod: &Arc<Pod>, steps: &Steps) {
    let (service, pod) = (service.clone(), pod.clone());
    steps.undo("pod's cgroup", move || {
        if pod.config.cgroup_parent.is_none() && pod.status().state.is_torn_down() {
            service.cgroups.remove_if_empty(pod.cgroup_parent())?;
        }
        Ok(())
    });
}

fn assemble(container: &Container, pod: &Pod) -> Result<OwnedFd, Cause> {
    let user = user_namespace(pod)?;
    let leases = container.leases.lock().unwrap_or_else(PoisonError::into_inner);
    let gone = || Cause::LayersGone { image: container.metadata.image.name.clone() };
    let layers = leases.as_ref().and_then(|leases| leases.root.as_ref()).ok_or_else(gone)?.layer_paths();
    let (upper, work) = (container.folder.upper(), container.folder.work());
    Ok(rootfs::assemble(layers, &upper, &work, user.as_deref().map(AsFd::as_fd))?)
}

/// The pod's user namespace. None for the host's.
///
/// # Errors
/// The monitor has ended.
pub(super) fn user_namespace(pod: &Pod) -> Result<Option<Arc<UserNamespace>>, Cause> {
    pod.user_namespace().map_err(|error| Cause::file(format!("user namespace of pod {}", pod.id))(error))
}

/// Drops the prepared parts, and removes the cgroup with all processes in it. Blocks.
///
/// # Errors
/// As [`container_cgroup::remove`].
pub(super) fn discard(service: &ServiceState, container: &Container) -> Result<(), Cause> {
    drop(container.prepared.lock().unwrap_or_else(PoisonError::into_inner).take());
    container_cgroup::remove(service, container)
}

/// Discards parts that were prepared for a start that will not come.
pub(crate) fn discard_in_background(service: &Arc<ServiceState>, container: &Arc<Container>) {
    // A preparation under way checks at its end whether the pod is stopped.
    if !is_prepared(container) {
        return;
    }
    let (service, container) = (service.clone(), container.clone());
    tokio::spawn(async move {
        let id = container.id().clone();
        let Ok(_lock) = service.locks.lock_within(id.clone(), OPERATION, LOCK).await else { return };
        let work = move || {
            if is_prepared(&container) { discard(&service, &container) } else { Ok(()) }
        };
        if let Ok(Err(error)) = tokio::task::spawn_blocking(work).await {
            tracing::warn!(container = %id, %error, "the container's removal tries again");
        }
    });
}
