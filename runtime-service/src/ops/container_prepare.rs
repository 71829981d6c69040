//! The parts of a start that are the same whenever it is: the root file system as a detached mount, and the
//! cgroup with its limits. They are made behind the answer to CreateContainer, so that a start finds them.
//!
//! ```text
//!   create ─> answer ─> in_background ─> Container::prepared ─┐
//!   start ─────────────────────────────────────────────── take <─┘   or makes both itself
//!   stop of the pod, removal ─────────────────────────── discard
//! ```

use std::os::fd::OwnedFd;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use crisp_executor::cgroup::JoinFds;
use crisp_executor::rootfs;
use crisp_sandbox::Pod;
use oci_spec::runtime::Spec;

use super::{container_cgroup, container_spec};
use crate::cause::{Cause, StageFailure, Steps};
use crate::container::Container;
use crate::container::prepared::Prepared;
use crate::container::state::State;
use crate::service_state::ServiceState;

const OPERATION: &str = "prepare_container";
/// For another operation on the container to end.
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
        let mut operation = service.operation(OPERATION, &id);
        operation.hold(lock);
        let work = move |steps: &Steps| prepare(&service, &container, &pod, steps);
        let result = operation.blocking(DEADLINE, work).await;
        if let Err(error) = operation.finish(result).await {
            tracing::debug!(container = %id, %error, "not prepared; its start does it");
        }
    });
}

fn prepare(
    service: &Arc<ServiceState>,
    container: &Arc<Container>,
    pod: &Pod,
    steps: &Steps,
) -> Result<(), StageFailure> {
    let limits = container.status().resources.clone();
    let spec = steps.step("spec", || container_spec::build(service, &container.metadata, &limits, pod))?;
    let (root, cgroup) = make(service, container, pod, &spec, steps)?;
    let prepared = Prepared { root, cgroup, limits };
    *container.prepared.lock().unwrap_or_else(PoisonError::into_inner) = Some(prepared);
    // A stop of the pod after this discards what is prepared.
    steps.step("pod", || Ok(pod.require_ready()?))
}

/// What is prepared, or else is made now.
///
/// # Errors
/// The stage that failed; its undo step is registered.
pub(super) fn take(
    service: &Arc<ServiceState>,
    container: &Arc<Container>,
    pod: &Pod,
    spec: &Spec,
    steps: &Steps,
) -> Result<(OwnedFd, JoinFds), StageFailure> {
    let prepared = container.prepared.lock().unwrap_or_else(PoisonError::into_inner).take();
    match prepared {
        Some(Prepared { root, cgroup, limits }) if limits == container.status().resources => {
            undo_cgroup(service, container, steps);
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

fn make(
    service: &Arc<ServiceState>,
    container: &Arc<Container>,
    pod: &Pod,
    spec: &Spec,
    steps: &Steps,
) -> Result<(OwnedFd, JoinFds), StageFailure> {
    let root = steps.step("root", || assemble(container))?;
    undo_cgroup(service, container, steps);
    let cgroup = steps.step("cgroup", || container_cgroup::create(service, container, pod, spec))?;
    Ok((root, cgroup))
}

fn undo_cgroup(service: &Arc<ServiceState>, container: &Arc<Container>, steps: &Steps) {
    let (service, container) = (service.clone(), container.clone());
    steps.undo("cgroup", move || discard(&service, &container));
}

fn assemble(container: &Container) -> Result<OwnedFd, Cause> {
    let lease = container.lease.lock().unwrap_or_else(PoisonError::into_inner);
    let gone = || Cause::LayersGone { image: container.metadata.image.name.clone() };
    let lease = lease.as_ref().ok_or_else(gone)?;
    Ok(rootfs::assemble(lease.layer_paths(), &container.folder.upper(), &container.folder.work())?)
}

/// Gives back what is prepared, and removes the cgroup with all that runs in it. Blocks.
///
/// # Errors
/// As [`container_cgroup::remove`].
pub(super) fn discard(service: &ServiceState, container: &Container) -> Result<(), Cause> {
    drop(container.prepared.lock().unwrap_or_else(PoisonError::into_inner).take());
    container_cgroup::remove(service, container)
}

/// Gives back what is prepared for a start that will not come.
pub(crate) fn discard_in_background(service: &Arc<ServiceState>, container: &Arc<Container>) {
    // One that is being prepared now sees at its end that the pod is stopped.
    if container.prepared.lock().unwrap_or_else(PoisonError::into_inner).is_none() {
        return;
    }
    let (service, container) = (service.clone(), container.clone());
    tokio::spawn(async move {
        let id = container.id().clone();
        let Ok(_lock) = service.locks.lock_within(id.clone(), OPERATION, LOCK).await else { return };
        let work = move || {
            let is_prepared = container.prepared.lock().unwrap_or_else(PoisonError::into_inner).is_some();
            if is_prepared { discard(&service, &container) } else { Ok(()) }
        };
        if let Ok(Err(error)) = tokio::task::spawn_blocking(work).await {
            tracing::warn!(container = %id, %error, "the container's removal tries again");
        }
    });
}
