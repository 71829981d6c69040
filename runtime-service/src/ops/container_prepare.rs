//! Prepares the parts of a start that do not depend on its time: the bundle, the root file system as a
//! detached mount, the cgroup with its limits, and where nothing of the host can change it, the plan and the
//! log. They are made after the response to CreateContainer, so that a start finds them.
//!
//! ```text
//!   create ─> answer ─> in_background ─> Container::prepared ─┐
//!   start ────────────────────────────────── take_plan, take <─┘   or makes everything itself
//!   stop of the pod, removal ─────────────────────── discard
//! ```

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt as _;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use crisp_executor::cgroup::JoinFds;
use crisp_executor::in_root::Kind;
use crisp_executor::rootfs;
use crisp_metrics::trace;
use crisp_sandbox::Pod;
use oci_spec::runtime::{LinuxResources, Mount, Spec};
use tokio::sync::OwnedSemaphorePermit;

use super::{container_cgroup, container_plan, container_spec, log_reopen};
use crate::cause::{Cause, StageFailure, Steps};
use crate::container::config::Resources;
use crate::container::state::State;
use crate::container::{Container, Prepared, PreparedParts, PreparedPlan};
use crate::service_state::ServiceState;

const OPERATION: &str = "prepare_container";
/// Time limit for another operation on the container.
const LOCK: Duration = Duration::from_secs(30);
const DEADLINE: Duration = Duration::from_secs(60);

/// Prepares a container that has just been created, unless it is started before that begins.
pub(crate) fn in_background(service: &Arc<ServiceState>, container: &Arc<Container>, pod: &Arc<Pod>) {
    let (service, container, pod) = (service.clone(), container.clone(), pod.clone());
    tokio::spawn(trace::in_current(async move {
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
    }));
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
    steps.step("mount points", || {
        make_mount_points(&root, &spec, pod);
        Ok(())
    })?;
    let parts = if container_plan::is_fixed(&container.metadata, pod) && has_log_folder(container) {
        PreparedParts::Plan(Box::new(plan(service, container, pod, (&spec, limits), (root, cgroup), steps)?))
    } else {
        PreparedParts::RootAndCgroup { root, cgroup, resources: resources_of(&spec) }
    };
    *container.prepared.lock().unwrap_or_else(PoisonError::into_inner) = Some(Prepared { parts, permit });
    // A stop of the pod after this check discards the prepared parts.
    steps.step("pod", || Ok(pod.require_ready()?))
}

/// Makes the mount points that are on the root itself. Those that cannot be made now are the start's to make or
/// to report. In a pod with a user namespace they have other owners.
fn make_mount_points(root: &OwnedFd, spec: &Spec, pod: &Pod) {
    if pod.config.user.is_some() {
        return;
    }
    let mounts = spec.mounts().as_deref().unwrap_or_default();
    let files = pod.files();
    let files = [&files.hosts, &files.resolv_conf, &files.hostname];
    let is_below = |mount: &Mount, other: &Mount| {
        mount.destination() != other.destination() && mount.destination().starts_with(other.destination())
    };
    for mount in mounts.iter().filter(|mount| !mounts.iter().any(|other| is_below(mount, other))) {
        let is_file = mount.source().as_ref().is_some_and(|source| files.contains(&source));
        let is_bind = mount.options().iter().flatten().any(|option| option == "bind" || option == "rbind");
        let kind = match mount.typ().as_deref() {
            Some("proc" | "sysfs" | "tmpfs") if !is_bind => Kind::Folder,
            Some("bind") if is_file => Kind::File,
            // Whether it is a file or a folder is known when its volume is opened.
            _ => continue,
        };
        if let Err(errno) = rootfs::make_mount_point(root, mount.destination(), kind) {
            tracing::debug!(path = %mount.destination().display(), %errno, "a mount point is left to the start");
        }
    }
}

/// A container that is never started must not leave a folder among the logs.
fn has_log_folder(container: &Container) -> bool {
    let path = container.metadata.log_path.as_deref();
    path.is_none_or(|path| path.parent().is_some_and(log_reopen::is_folder_in_cache))
}

fn plan(
    service: &ServiceState,
    container: &Container,
    pod: &Pod,
    (spec, resources): (&Spec, Resources),
    parts: (OwnedFd, JoinFds),
    steps: &Steps,
) -> Result<PreparedPlan, StageFailure> {
    let path = container.metadata.log_path.as_deref();
    let log = steps.step("log", || path.map(log_reopen::open).transpose())?;
    let compiled =
        steps.step("compile", || container_plan::compile(service, container, pod, spec, parts, None))?;
    Ok(PreparedPlan { compiled, log, resources })
}

/// The prepared plan, if the limits have not been changed since. Does not block.
pub(super) fn take_plan(container: &Container) -> Option<PreparedPlan> {
    let mut prepared = container.prepared.lock().unwrap_or_else(PoisonError::into_inner);
    let resources = &container.status().resources;
    let is_usable =
        |parts: &PreparedParts| matches!(parts, PreparedParts::Plan(plan) if plan.resources == *resources);
    match prepared.take_if(|prepared| is_usable(&prepared.parts))?.parts {
        PreparedParts::Plan(plan) => Some(*plan),
        PreparedParts::RootAndCgroup { .. } => None,
    }
}

/// The prepared root and cgroup; missing and outdated ones are made now.
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
    match prepared.map(|prepared| prepared.parts) {
        // A device may have another number by now, and limits may have been changed.
        Some(PreparedParts::RootAndCgroup { root, cgroup, resources }) if resources == resources_of(spec) => {
            Ok((root, cgroup))
        }
        // An earlier server may have been killed while it made the cgroup: a cpuset without CPUs would stay so.
        None if container.metadata.created_at >= service.opened_at => {
            make(service, container, pod, spec, steps)
        }
        outdated => {
            drop(outdated);
            steps.step("outdated cgroup", || container_cgroup::remove(service, container))?;
            make(service, container, pod, spec, steps)
        }
    }
}

fn resources_of(spec: &Spec) -> Option<Box<LinuxResources>> {
    spec.linux().as_ref()?.resources().clone().map(Box::new)
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
    steps.step("bundle", || container_spec::write(&container.folder, spec))?;
    let root = steps.step("root", || assemble(container, pod))?;
    let cgroup = steps.step("cgroup", || container_cgroup::create(service, container, pod, spec))?;
    Ok((root, cgroup))
}

/// Discards the prepared or new parts when a later step fails.
pub(super) fn undo(service: &Arc<ServiceState>, container: &Arc<Container>, steps: &Steps) {
    steps.undo("cgroup", discarding(service, container));
}

/// [`discard`] for later.
pub(super) fn discarding(
    service: &Arc<ServiceState>,
    container: &Arc<Container>,
) -> impl FnOnce() -> Result<(), Cause> + Send + use<> {
    let (service, container) = (service.clone(), container.clone());
    move || discard(&service, &container)
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
    let user = container_plan::user_namespace(pod)?;
    let leases = container.leases.lock().unwrap_or_else(PoisonError::into_inner);
    let gone = || Cause::LayersGone { image: container.metadata.image.name.clone() };
    let layers = leases.as_ref().and_then(|leases| leases.root.as_ref()).ok_or_else(gone)?.layer_paths();
    let (upper, work) = (container.folder.upper(), container.folder.work());
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&work).map_err(Cause::file(&work))?;
    Ok(rootfs::assemble(layers, &upper, &work, user.as_deref().map(AsFd::as_fd))?)
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
