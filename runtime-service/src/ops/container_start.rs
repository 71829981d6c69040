//! StartContainer: everything that costs is put together here and handed to the monitor as descriptors.
//!
//! ```text
//!   root (detached overlay) ─> cgroup ─> log ─> compile (spec to plan) ─> monitor ─> running
//! ```

use std::fs;
use std::os::fd::OwnedFd;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use crisp_executor::cgroup::{JoinFds, Resources};
use crisp_executor::compile::{self, Compiled, Inputs, PidInput};
use crisp_executor::rootfs;
use crisp_sandbox::link::StartRequest;
use crisp_sandbox::{NamespaceMode, Pod};
use oci_spec::runtime::Spec;

use super::pid_namespace;
use crate::clock;
use crate::container::exit::Exit;
use crate::container::record::RecordError;
use crate::container::state::State;
use crate::container::{Container, PidChoice};
use crate::error::RuntimeError;
use crate::events::Kind;
use crate::service_state::{ServiceState, cgroup_path};
use crate::spec::limits;
use crate::stage::{Cause, Failure, StageFailure, Steps};

const OPERATION: &str = "start_container";
/// For opening all volumes together; a dead one is given up then.
const SOURCES: Duration = Duration::from_secs(20);
const PREPARE: Duration = Duration::from_secs(60);
const MONITOR: Duration = Duration::from_secs(60);
const UNDO: Duration = Duration::from_secs(15);

/// Starts the container, or joins its start under way.
///
/// # Errors
/// A container that was started before, or the stage that failed: the container has then exited with
/// reason StartError and the same message.
pub async fn start(service: &Arc<ServiceState>, container: Arc<Container>) -> Result<(), RuntimeError> {
    let service = service.clone();
    let id = container.id().clone();
    let joint = service.clone();
    joint.starts.run(id, move || async move { start_once(&service, &container).await }).await
}

async fn start_once(service: &Arc<ServiceState>, container: &Arc<Container>) -> Result<(), RuntimeError> {
    let id = container.id();
    let pod = service.pod_of(container).ok_or_else(|| gone(container))?;
    change(container, State::starting)?;
    match bring_up(service, container, &pod).await {
        Ok(started) => {
            let (pid, at) = (started.pid, started.started_at_ns);
            for note in started.notes {
                tracing::info!(container = %id, %note, "not all could be had as asked");
            }
            change(container, |state| state.running(pid, at))?;
            service.events.emit(Kind::Started, id.as_str(), &pod.id);
            // An exit that came before this answer could not be told before the start.
            if container.status().state.exit().is_some() {
                service.events.emit(Kind::Stopped, id.as_str(), &pod.id);
            }
            Ok(())
        }
        Err(failure) => Err(fail(service, container, &pod, failure).await.into()),
    }
}

/// Undoes what was made and lets the container say why it did not start.
async fn fail(
    service: &Arc<ServiceState>,
    container: &Arc<Container>,
    pod: &Arc<Pod>,
    failure: StageFailure,
) -> Failure {
    let undo = undo(service, container, pod).await.err().into_iter().collect();
    let failure =
        Failure { subject: format!("container {}", container.id()), operation: OPERATION, failure, undo };
    let exit = Exit::start_error(failure.failure.cause.to_string(), clock::now());
    if let Err(error) = change(container, |state| state.exited(exit)) {
        tracing::error!(container = %container.id(), %error, "cannot note that the start failed");
    }
    service.events.emit(Kind::Stopped, container.id().as_str(), &pod.id);
    failure
}

fn gone(container: &Container) -> RuntimeError {
    let text = container.metadata.pod.as_str().to_owned();
    crisp_sandbox::FindError::None { text }.into()
}

pub(super) fn change(
    container: &Container,
    change: impl FnOnce(&State) -> Result<State, crate::container::state::Refusal>,
) -> Result<(), RuntimeError> {
    use crate::container::status_cell::StatusError;
    let id = container.id().clone();
    match container.status_cell.update(change) {
        Ok(_) => Ok(()),
        Err(StatusError::Refused(refusal)) => Err(RuntimeError::Refused { id, refusal }),
        Err(StatusError::Record(source)) => Err(RuntimeError::Record { id, source }),
    }
}

async fn bring_up(
    service: &Arc<ServiceState>,
    container: &Arc<Container>,
    pod: &Arc<Pod>,
) -> Result<crisp_sandbox::link::Started, StageFailure> {
    let stages = service.stages(OPERATION);
    let prepared = {
        let (service, container, pod) = (service.clone(), container.clone(), pod.clone());
        stages.blocking(PREPARE, move |steps| prepare(&service, &container, &pod, steps)).await?
    };
    let work = async {
        let request = StartRequest {
            container: container.id().clone(),
            plan: prepared.compiled.plan,
            fds: prepared.compiled.fds,
            log: prepared.log,
            stdin: container.metadata.config.stdin,
            stdin_once: container.metadata.config.stdin_once,
            size: None,
        };
        Ok(pod.ready_link()?.start(request).await?)
    };
    stages.run("monitor", MONITOR, work).await
}

struct Prepared {
    compiled: Compiled,
    log: Option<OwnedFd>,
}

fn prepare(
    service: &ServiceState,
    container: &Container,
    pod: &Pod,
    steps: &Steps,
) -> Result<Prepared, StageFailure> {
    let spec = steps.step("read spec", || read_spec(container))?;
    let root = steps.step("root", || assemble(container))?;
    let cgroup = steps.step("cgroup", || make_cgroup(service, container, pod, &spec))?;
    let log = steps
        .step("log", || container.metadata.log_path.as_deref().map(super::log_reopen::open).transpose())?;
    let compiled = steps.step("compile", || {
        let inputs = Inputs {
            root,
            cgroups: service.cgroups.clone(),
            cgroup,
            pid: pid_input(service, &container.metadata.pid)?,
            pod_shm: pod.config.ipc == NamespaceMode::Pod,
            source_deadline: SOURCES,
        };
        Ok(compile::compile(&spec, inputs)?)
    })?;
    Ok(Prepared { compiled, log })
}

/// What CreateContainer wrote.
pub(crate) fn read_spec(container: &Container) -> Result<Spec, Cause> {
    let path = container.folder.spec();
    let text = fs::read(&path).map_err(Cause::file(&path))?;
    Ok(serde_json::from_slice(&text).map_err(|source| RecordError::Damaged { path, source })?)
}

fn assemble(container: &Container) -> Result<OwnedFd, Cause> {
    let lease = container.lease.lock().unwrap_or_else(PoisonError::into_inner);
    let lease = lease.as_ref().ok_or_else(|| Cause::Task("its image's layers are gone".to_owned()))?;
    Ok(rootfs::assemble(lease.layer_paths(), &container.folder.upper(), &container.folder.work())?)
}

fn make_cgroup(
    service: &ServiceState,
    container: &Container,
    pod: &Pod,
    spec: &Spec,
) -> Result<JoinFds, Cause> {
    let cgroup = service.cgroups.create(&cgroup_path(pod, container.id())?)?;
    let linux = spec.linux().as_ref();
    let devices = linux.and_then(|l| l.resources().as_ref()).and_then(|r| r.devices().clone());
    // From the status, not from the spec: limits may have been updated since the creation.
    let limits = limits::resources(&container.status().resources, devices.unwrap_or_default());
    cgroup.apply(&Resources::from_spec(&limits)?)?;
    Ok(cgroup.join()?)
}

fn pid_input(service: &ServiceState, choice: &PidChoice) -> Result<PidInput, Cause> {
    Ok(match choice {
        PidChoice::Own => PidInput::Own,
        PidChoice::Pod => PidInput::Pod,
        PidChoice::Host => PidInput::Host,
        PidChoice::Target(id) => PidInput::Target(pid_namespace::pidfd_of_target(service, id)?),
    })
}

/// Kills whatever came to run in spite of the failure and removes the cgroup. The rest of a start is
/// descriptors, which are gone with it.
async fn undo(
    service: &Arc<ServiceState>,
    container: &Arc<Container>,
    pod: &Arc<Pod>,
) -> Result<(), StageFailure> {
    let (owned, container, pod) = (service.clone(), container.clone(), pod.clone());
    let work = move |steps: &Steps| steps.step("undo cgroup", || remove_cgroup(&owned, &container, &pod));
    service.stages(OPERATION).blocking(UNDO, work).await
}

/// Kills all in the container's cgroup and removes it; none there is fine.
pub(crate) fn remove_cgroup(service: &ServiceState, container: &Container, pod: &Pod) -> Result<(), Cause> {
    use crisp_executor::cgroup::CgroupError;
    match service.cgroups.open(&cgroup_path(pod, container.id())?) {
        Ok(cgroup) => {
            cgroup.kill()?;
            Ok(cgroup.remove()?)
        }
        Err(CgroupError::NotFound { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
