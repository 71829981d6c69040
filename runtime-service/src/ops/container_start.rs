//! StartContainer: prepares everything that takes time, and passes it to the monitor as descriptors.
//!
//! ```text
//!   spec ─> root and cgroup (prepared by now) ─> log ─> compile (spec to plan) ─> monitor ─> running
//!                   └ undo: kill all in it, remove it                        │      └ undo: kill
//!   or all of these are prepared by now ─> is the log still there? ──────────┘
//! ```
//!
//! In the stage of the monitor, the process of a container with hooks waits for them, see
//! [`container_hooks`].
//!
//! A stop cancels a start under way, see [`container_stop`](super::container_stop).

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use crisp_executor::compile::Compiled;
use crisp_operation::{Cancel, Interrupted, clock};
use crisp_sandbox::Pod;
use crisp_sandbox::link::{LinkError, MonitorLink, StartRequest, Started};

use super::container_hooks::{self, StartHooks};
use super::{container_cgroup, container_plan, container_prepare, container_spec, log_reopen};
use crate::cause::{Cause, Failure, Operation, StageFailure, Steps};
use crate::container::exit::Exit;
use crate::container::signal::Signal;
use crate::container::state::State;
use crate::container::{Container, PreparedPlan};
use crate::error::RuntimeError;
use crate::events::Kind;
use crate::exits;
use crate::service_state::{ServiceState, subject};

const OPERATION: &str = "start_container";
/// Time limit for another operation on the container.
const LOCK: Duration = Duration::from_secs(30);
const PREPARE: Duration = Duration::from_secs(60);
const MONITOR: Duration = Duration::from_secs(60);
/// Time limit for the monitor to kill the process of a failed start. The cgroup is killed after that anyway.
const UNDO_MONITOR: Duration = Duration::from_secs(2);

/// Starts the container, or joins its start under way.
///
/// # Errors
/// The container was started before, or a stage failed: the container has then exited with reason StartError
/// and the same message.
pub async fn start(service: &Arc<ServiceState>, container: Arc<Container>) -> Result<(), RuntimeError> {
    let id = container.id().clone();
    let flight = service.starts.join_or_start(id, |cancel| {
        let service = service.clone();
        ((), async move { start_once(&service, &container, cancel).await })
    });
    Ok(flight.wait().await?)
}

async fn start_once(
    service: &Arc<ServiceState>,
    container: &Arc<Container>,
    cancel: Cancel,
) -> Result<(), RuntimeError> {
    let id = container.id();
    let busy = |busy| RuntimeError::Busy { id: id.clone(), busy };
    let mut operation = Operation::cancelled_by(&service.metrics, OPERATION, subject(id), cancel.clone());
    let lock = tokio::select! {
        biased;
        () = cancel.cancelled() => return Err(RuntimeError::Stopped { id: id.clone() }),
        lock = operation.turn(service.locks.lock_within(id.clone(), OPERATION, LOCK)) => lock.map_err(busy)?,
    };
    let refused = |refusal| RuntimeError::Refused { id: id.clone(), refusal };
    container.status().state.starting().map_err(refused)?;
    let pod = service.pod_of(container).ok_or_else(|| pod_gone(container))?;
    // Refused before the state changes: the container can be started when its pod is ready.
    let link = pod.ready_link()?;
    if !container_prepare::is_prepared(container) && container_cgroup::is_in_use(service, container) {
        // An earlier server started it: its monitor's report is under way.
        exits::reconcile(service, &pod, &link, exits::Starts::UnderWay).await;
    }
    // Only in memory: if this server ends before the start does, the monitor knows the result.
    container.status_cell.show(|status| status.with_state(State::starting)).map_err(refused)?;
    operation.hold(lock);
    let result = bring_up(&operation, service, container, &pod, &link).await;
    // While the lock is held: no removal comes between the exit of a short-lived container and its events.
    let result = result.map(|started| {
        let pid = started.pid;
        note_running(service, container, started);
        pid
    });
    let result = operation.finish(result).await;
    match result {
        Ok(pid) => {
            container_hooks::run_poststart(service, container, pid).await;
            Ok(())
        }
        Err(failure) => {
            // Before the failure becomes visible: what comes after it waits for the hooks. If another has it, that is
            // the clean-up of this start.
            let cleaning = container.cleaning.clone().try_lock_owned().ok();
            // While a step still runs, its process may too: a later operation runs the hooks.
            let is_undone = failure.pending.is_none();
            let failure = note_failure(service, container, failure);
            if is_undone {
                container_hooks::run_poststop_in_background(container, cleaning);
            }
            Err(failure.into())
        }
    }
}

fn pod_gone(container: &Container) -> RuntimeError {
    crisp_sandbox::FindError::None { text: container.metadata.pod.as_str().to_owned() }.into()
}

fn note_running(service: &ServiceState, container: &Container, started: Started) {
    let id = container.id();
    for note in started.notes {
        if service.host_notes.is_new(&note.to_string()) {
            tracing::info!(container = %id, %note, "this host could not do all that was requested");
        } else {
            tracing::debug!(container = %id, %note, "this host could not do all that was requested");
        }
    }
    let mut emitter = service.emitter();
    match container.observe(|state| state.running(started.pid, started.started_at_ns)) {
        Ok((_, after)) => {
            // For an exit that arrived before the response to the start, no event has been sent yet.
            match after.state.exit() {
                Some(_) => emitter.emit_short_life(container),
                None => emitter.emit(Kind::Started, container),
            }
        }
        Err(refusal) => {
            tracing::error!(container = %id, %refusal, "the monitor reports a start that was not expected");
        }
    }
}

/// Everything has been undone; the container keeps the reason of the failure.
fn note_failure(service: &ServiceState, container: &Container, mut failure: Failure) -> Failure {
    if matches!(failure.failure.cause, Cause::Interrupted(Interrupted::Cancelled)) {
        failure.failure.cause = Cause::Stopped;
    }
    let exit = Exit::start_error(failure.failure.cause.to_string(), clock::now());
    let mut emitter = service.emitter();
    match container.observe(|state| state.exited(exit)) {
        Ok(_) => emitter.emit(Kind::Stopped, container),
        Err(refusal) => {
            tracing::debug!(container = %container.id(), %refusal, "a failed start leaves the state as it was");
        }
    }
    drop(emitter);
    failure
}

async fn bring_up(
    operation: &Operation,
    service: &Arc<ServiceState>,
    container: &Arc<Container>,
    pod: &Arc<Pod>,
    link: &MonitorLink,
) -> Result<Started, StageFailure> {
    let inputs = match container_prepare::take_plan(container) {
        Some(plan) => with_log(operation, service, container, plan).await?,
        None => {
            let (service, container, pod) = (service.clone(), container.clone(), pod.clone());
            let deadline = PREPARE + container_hooks::poststop_limit(&container).unwrap_or_default();
            operation.blocking(deadline, move |steps| prepare(&service, &container, &pod, steps)).await?
        }
    };
    undo_monitor(operation, container, link);
    let hooks = inputs.hooks;
    let deadline = MONITOR + hooks.as_ref().map_or(Duration::ZERO, StartHooks::limit);
    let link = link.within(deadline);
    let start = |stage| async move {
        let request = StartRequest {
            container: container.id().clone(),
            plan: inputs.compiled.plan,
            fds: inputs.compiled.fds,
            log: inputs.log,
            stdin: container.metadata.config.stdin,
            stdin_once: container.metadata.config.stdin_once,
            size: None,
        };
        let Some(hooks) = hooks else { return Ok(link.start(request).await?) };
        let hooks = container_hooks::run_in_pause(&stage, service, container, hooks);
        let (hooks, started) = tokio::join!(hooks, link.start(request));
        hooks?;
        Ok(started?)
    };
    operation.stage("monitor", deadline, start).await.map_err(|failure| match failure.cause {
        cause @ Cause::Hook(_) => StageFailure { stage: "hooks", cause },
        cause => StageFailure { cause, ..failure },
    })
}

/// The prepared plan. Its log is opened again if it was moved or deleted meanwhile; otherwise nothing here
/// blocks, and no other thread is needed: that would cost more than the rest.
async fn with_log(
    operation: &Operation,
    service: &Arc<ServiceState>,
    container: &Arc<Container>,
    PreparedPlan { compiled, log, .. }: PreparedPlan,
) -> Result<MonitorInputs, StageFailure> {
    operation.undo("cgroup", container_prepare::discarding(service, container));
    let log = match (log, container.metadata.log_path.clone()) {
        (Some(log), Some(path)) if !log_reopen::is_still_at(&log, &path) => {
            let open = move |steps: &Steps| {
                // On this thread: closing a file of a FUSE server waits for that.
                drop(log);
                steps.step("log", || log_reopen::open(&path).map(Some))
            };
            operation.blocking(PREPARE, open).await?
        }
        (log, _) => log,
    };
    Ok(MonitorInputs { compiled, log, hooks: None })
}

/// Kills the process that the monitor has started, or may still start, for a failed start. Without an answer
/// from the monitor, removing the cgroup has the same effect: no process can be started in a removed cgroup.
fn undo_monitor(operation: &Operation, container: &Container, link: &MonitorLink) {
    let (link, id) = (link.within(UNDO_MONITOR), container.id().clone());
    operation.undo_async("monitor", 2 * UNDO_MONITOR, || async move {
        match link.signal(&id, Signal::KILL.number(), true).await {
            // It was never started, or it has ended.
            Ok(()) | Err(LinkError::Refused { .. }) => {}
            Err(error) => tracing::warn!(container = %id, %error, "the monitor cannot kill a failed start"),
        }
        Ok(())
    });
}

/// The descriptors and the plan that the monitor gets.
struct MonitorInputs {
    compiled: Compiled,
    log: Option<OwnedFd>,
    hooks: Option<StartHooks>,
}

fn prepare(
    service: &Arc<ServiceState>,
    container: &Arc<Container>,
    pod: &Arc<Pod>,
    steps: &Steps,
) -> Result<MonitorInputs, StageFailure> {
    let metadata = &container.metadata;
    let resources = &container.status().resources;
    container_prepare::undo(service, container, steps);
    // Of a start that an earlier server has left.
    steps.step("poststop hooks", || container_hooks::run_due(container))?;
    let spec = steps.step("spec", || container_spec::build(service, metadata, resources, pod))?;
    let parts = container_prepare::take(service, container, pod, &spec, steps)?;
    let log = steps.step("log", || metadata.log_path.as_deref().map(log_reopen::open).transpose())?;
    let mut hooks = match spec.hooks() {
        None => None,
        Some(hooks) => Some(steps.step("hooks", || container_hooks::prepare(container, &spec, hooks))?),
    };
    let compiled = steps.step("compile", || {
        let hooks = hooks.as_mut().map(StartHooks::inputs);
        container_plan::compile(service, container, pod, &spec, parts, hooks)
    })?;
    Ok(MonitorInputs { compiled, log, hooks })
}
