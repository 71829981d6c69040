//! Exits: turns the reports of monitors into the status of containers.
//!
//! ```text
//!   event of a monitor ─> exited ─┐
//!   report of a monitor ─> reconcile ─> end: recorded, emitted, cgroup removed
//!   monitor gone, pod stopped ────┘  (with the code that the monitor recorded, if any)
//! ```
//!
//! A second report of an exit changes nothing. An exit is recorded in memory at once, even if the disk does
//! not accept it; the monitor keeps it until the container is removed, for the next server.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use crisp_executor::ids::ContainerId;
use crisp_operation::clock;
use crisp_sandbox::Pod;
use crisp_sandbox::link::{self, ContainerReport, ContainerState, ExitRecord, MonitorLink};

use crate::cause::Steps;
use crate::container::Container;
use crate::container::exit::{Exit, Reason};
use crate::container::signal::Signal;
use crate::container::state::{Refusal, State};
use crate::emitter::Emitter;
use crate::events::Kind;
use crate::ops::{container_cgroup, container_hooks, container_prepare};
use crate::service_state::ServiceState;

const CLEAN: Duration = Duration::from_secs(30);
/// The first and the longest pause between two tries to read an exit record: about half a minute together.
const PAUSE: [Duration; 2] = [Duration::from_millis(50), Duration::from_secs(16)];

/// An exit as a monitor reports it.
pub(crate) struct ExitReport {
    pub(crate) pid: i32,
    pub(crate) started_at_ns: i64,
    pub(crate) exit: link::Exit,
}

impl ExitReport {
    fn exit(&self) -> Exit {
        let code = self.exit.status.code();
        Exit {
            code,
            reason: Reason::of(code, self.exit.oom),
            message: String::new(),
            started_at: Some(self.started_at_ns),
            finished_at: self.exit.finished_at_ns,
        }
    }
}

/// Handles an exit that a monitor has sent.
pub(crate) fn exited(service: &Arc<ServiceState>, id: &ContainerId, report: &ExitReport) {
    let Some(container) = service.containers.get(id) else { return };
    let (pid, exit) = (report.pid, &report.exit);
    if container.status().state.is_another_life(report.started_at_ns) {
        tracing::warn!(container = %id, pid, "an exit of its life before");
        return;
    }
    tracing::debug!(container = %id, pid, status = %exit.status, oom = exit.oom, "exited");
    end(service, &container, report.exit(), Starts::UnderWay);
}

/// Records an exit and kills the processes that are left in the container's cgroup.
fn end(service: &Arc<ServiceState>, container: &Arc<Container>, exit: Exit, starts: Starts) {
    let mut emitter = service.emitter();
    // Taken before the exit becomes visible: a start after the exit waits for this. And as one step with the note: of
    // two that report the exit, the first cleans up.
    let cleaning = container.cleaning.clone().try_lock_owned();
    let noted = note_with(&mut emitter, container, exit, starts);
    drop(emitter);
    match noted {
        Ok(Noted::Now) => match cleaning {
            Ok(cleaning) => clean(service, container, cleaning),
            // A stop has it: that kills by the cgroup too, and a start waits for it.
            Err(_) => container_hooks::run_poststop_in_background(container, None),
        },
        // A second clean-up could meet the next life of the container in the same cgroup.
        Ok(Noted::Before) => {}
        Err(refusal) => tracing::error!(container = %container.id(), %refusal, "an exit that cannot be"),
    }
}

/// Whether an exit was news.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Noted {
    Now,
    /// The container had ended already.
    Before,
}

/// Records an exit and sends its event. Also sends the event of the start, unless an operation has done or
/// will do that.
///
/// # Errors
/// The container has not been started.
pub(crate) fn note(
    service: &ServiceState,
    container: &Container,
    exit: Exit,
    starts: Starts,
) -> Result<Noted, Refusal> {
    note_with(&mut service.emitter(), container, exit, starts)
}

fn note_with(
    emitter: &mut Emitter<'_>,
    container: &Container,
    exit: Exit,
    starts: Starts,
) -> Result<Noted, Refusal> {
    let (before, _) = container.observe(|state| state.exited(exit))?;
    match before.state {
        State::Running { .. } | State::Unknown { started_at: Some(_), .. } => {
            emitter.emit(Kind::Stopped, container);
        }
        State::Unknown { started_at: None, .. } => emitter.emit_short_life(container),
        State::Starting if starts == Starts::Abandoned => emitter.emit_short_life(container),
        // The operation of the start sends both events.
        State::Starting | State::Created | State::Exited(_) | State::Removing { .. } => {}
    }
    Ok(if before.state.is_idle() { Noted::Before } else { Noted::Now })
}

/// Closes what is kept open for a running container. A reading under way is waited for, so it blocks.
pub(crate) fn close_files(container: &Container) {
    container.exec_process.lock().unwrap_or_else(PoisonError::into_inner).take();
    // A removed cgroup with open files stays in the kernel.
    container.meters.cgroup.reader.close();
    container.exec_cgroups.close();
}

fn clean(
    service: &Arc<ServiceState>,
    container: &Arc<Container>,
    cleaning: tokio::sync::OwnedMutexGuard<()>,
) {
    let (service, container) = (service.clone(), container.clone());
    tokio::spawn(async move {
        let operation = service.operation("clean_up_exit", container.id());
        let deadline = CLEAN + container_hooks::poststop_limit(&container).unwrap_or_default();
        let work = move |steps: &Steps| {
            // Held until the work has ended, also where it outlives its deadline.
            let _cleaning = cleaning;
            close_files(&container);
            steps.step("cgroup", || container_cgroup::remove(&service, &container))?;
            steps.step("poststop hooks", || container_hooks::run_poststop(&container))
        };
        let result = operation.blocking(deadline, work).await;
        if let Err(error) = operation.finish(result).await {
            tracing::warn!(%error, "the container's removal tries again");
        }
    });
}

/// The owner of an unfinished start, which receives the monitor's response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Starts {
    /// The operation of this server that sent the request.
    UnderWay,
    /// No operation: the request came from an earlier server.
    Abandoned,
}

/// The result of a comparison with a monitor's report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reconciled {
    Done,
    /// A start of an earlier server is under way: only a later report tells its result.
    StartUnderWay,
    /// The monitor gives no report.
    Silent,
}

/// Compares the present statuses with the monitor's report.
pub(crate) async fn reconcile(
    service: &Arc<ServiceState>,
    pod: &Arc<Pod>,
    link: &MonitorLink,
    starts: Starts,
) -> Reconciled {
    // Taken before the request: a later start is not in the report.
    let before: Vec<(Arc<Container>, State)> = service
        .containers
        .of_pod(&pod.id)
        .into_iter()
        .map(|container| (container.clone(), container.status().state.clone()))
        .collect();
    let report = match link.report().await {
        Ok(report) => report,
        Err(error) => {
            tracing::warn!(pod = %pod.id, %error, "the pod's monitor gives no report");
            return Reconciled::Silent;
        }
    };
    let mut reconciled = Reconciled::Done;
    service.set_aside.reported(&pod.id, &report.containers);
    let mut reports: HashMap<ContainerId, ContainerReport> =
        report.containers.into_iter().map(|report| (report.id.clone(), report)).collect();
    for (container, state) in before {
        let report = reports.remove(container.id());
        let is_starting = report.as_ref().is_some_and(|r| matches!(r.state, ContainerState::Starting));
        match report {
            Some(report) if state == State::Created && container.status().state == State::Created => {
                claim(service, &container, &report);
            }
            // Idle before and after; not a container that was started meanwhile.
            Some(report)
                if matches!(report.state, ContainerState::Running)
                    && state.is_idle()
                    && container.status().state.is_idle() =>
            {
                kill_leftover(link, &container).await;
            }
            Some(report) => take_over(service, &container, &report, starts),
            None if state.may_run() => {
                let unknown = || Exit::lost("the pod's monitor does not know it".to_owned(), clock::now());
                end_as_recorded(service, &container, unknown, Starts::UnderWay);
            }
            None => {}
        }
        if is_starting && matches!(container.status().state, State::Unknown { .. }) {
            reconciled = Reconciled::StartUnderWay;
        }
    }
    for report in reports.into_values().filter(|report| service.containers.get(&report.id).is_none()) {
        without_record(service, link, pod, &report).await;
    }
    reconciled
}

/// The start of an earlier server that ended before it recorded the start. A start of this server changes the
/// state before the monitor receives it, so it cannot be confused with that.
fn claim(service: &Arc<ServiceState>, container: &Arc<Container>, report: &ContainerReport) {
    if container.status_cell.show(|status| status.with_state(State::starting)).is_err() {
        return;
    }
    if matches!(report.state, ContainerState::Starting) {
        let _ = container.observe(|state| state.lost("an earlier server started it".to_owned()));
    } else {
        take_over(service, container, report, Starts::Abandoned);
    }
}

/// Kills the process of a cancelled start that succeeded after all.
async fn kill_leftover(link: &MonitorLink, container: &Container) {
    tracing::warn!(container = %container.id(), "runs although it has ended: killed");
    if let Err(error) = link.signal(container.id(), Signal::KILL.number(), true).await {
        tracing::warn!(container = %container.id(), %error, "cannot kill it");
    }
}

/// Handles a container in the monitor's report whose record was removed or could not be read.
async fn without_record(service: &ServiceState, link: &MonitorLink, pod: &Pod, report: &ContainerReport) {
    if service.layout.container(&report.id).path().exists() {
        // Its records will be read again: until then only the monitor has its exit.
        return;
    }
    match report.state {
        ContainerState::Exited(_) => {
            if let Err(error) = link.forget(&report.id).await {
                tracing::debug!(container = %report.id, %error, "the monitor did not forget a container");
            }
        }
        ContainerState::Starting | ContainerState::Running => tracing::warn!(
            container = %report.id, pod = %pod.id,
            "a container runs of which this server has no record: it ends when its pod is stopped"
        ),
    }
}

fn take_over(
    service: &Arc<ServiceState>,
    container: &Arc<Container>,
    report: &ContainerReport,
    starts: Starts,
) {
    match report.state {
        ContainerState::Starting => {}
        ContainerState::Running => {
            let is_news = match container.status().state {
                State::Unknown { .. } => true,
                State::Starting => starts == Starts::Abandoned,
                State::Created | State::Running { .. } | State::Exited(_) | State::Removing { .. } => false,
            };
            if is_news {
                note_running(service, container, report);
            }
        }
        ContainerState::Exited(exit) if !container.status().state.is_idle() => {
            let report = ExitReport { pid: report.pid, started_at_ns: report.started_at_ns, exit };
            end(service, container, report.exit(), starts);
        }
        ContainerState::Exited(_) => {}
    }
}

fn note_running(service: &ServiceState, container: &Container, report: &ContainerReport) {
    let mut emitter = service.emitter();
    match container.observe(|state| state.running(report.pid, report.started_at_ns)) {
        // If it ran before its monitor became silent, its server has sent the event of the start.
        Ok((before, _)) if before.state.pid().is_some() => {}
        Ok(_) => emitter.emit(Kind::Started, container),
        Err(refusal) => {
            tracing::error!(container = %container.id(), %refusal, "cannot take over a running container");
        }
    }
}

/// Handles a monitor that does not answer: running containers probably still run, and kubelet would kill a
/// container in an unknown state. Only the result of a start under way is unknown.
pub(crate) fn silent(service: &ServiceState, pod: &Pod) {
    for container in service.containers.of_pod(&pod.id) {
        if note_unnoted_start(service, &container) || container.status().state == State::Starting {
            let why = "the pod's monitor does not answer".to_owned();
            if let Err(refusal) = container.observe(|state| state.lost(why)) {
                tracing::error!(container = %container.id(), %refusal, "cannot note that its state is unknown");
            }
        }
    }
}

/// The exit that the monitor recorded; None if there is no valid record.
///
/// # Errors
/// The disk cannot read the record, which may be valid.
pub(crate) fn recorded(service: &ServiceState, container: &Container) -> io::Result<Option<Exit>> {
    let folder = service.pods.exits_folder(&container.metadata.pod);
    let path = folder.join(ExitRecord::file_name(container.id()));
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let record = ExitRecord::parse(&text).inspect_err(
        |error| tracing::warn!(container = %container.id(), %error, "cannot read an exit record"),
    );
    let exit = |record: ExitRecord| {
        ExitReport { pid: record.pid, started_at_ns: record.started_at_ns, exit: record.exit }.exit()
    };
    Ok(record.ok().map(exit))
}

/// Records the exit from the monitor's record, or `otherwise`. If the disk refuses, it tries again for a
/// while.
fn end_as_recorded(
    service: &Arc<ServiceState>,
    container: &Arc<Container>,
    otherwise: fn() -> Exit,
    starts: Starts,
) {
    let error = match recorded(service, container) {
        Ok(exit) => return end(service, container, exit.unwrap_or_else(otherwise), starts),
        Err(error) => error,
    };
    tracing::error!(container = %container.id(), %error, "an exit record cannot be read; trying on");
    let (service, container) = (service.clone(), container.clone());
    tokio::spawn(async move {
        let [mut pause, longest] = PAUSE;
        let mut exit = None;
        while pause <= longest {
            tokio::time::sleep(pause).await;
            pause *= 2;
            if let Ok(read) = recorded(&service, &container) {
                exit = read;
                break;
            }
        }
        end(&service, &container, exit.unwrap_or_else(otherwise), starts);
    });
}

/// Completes a start that an earlier server did not record, from the monitor's exit record or the running
/// process. Returns true for such a start: no operation of this server will record its result.
pub(crate) fn note_unnoted_start(service: &ServiceState, container: &Container) -> bool {
    container.status().state == State::Created
        && (!matches!(recorded(service, container), Ok(None))
            || container_cgroup::is_in_use(service, container))
        // Refused for a container that is being started now.
        && container.status_cell.show(|status| status.with_state(State::starting)).is_ok()
}

/// Handles the end of a monitor, which ends its containers.
pub(crate) fn lost(service: &Arc<ServiceState>, pod: &Arc<Pod>) {
    service.set_aside.ended(&pod.id);
    let unknown =
        || Exit::lost("the pod's monitor ended and left no record of its exit".to_owned(), clock::now());
    for container in service.containers.of_pod(&pod.id) {
        if note_unnoted_start(service, &container) {
            end_as_recorded(service, &container, unknown, Starts::Abandoned);
        } else if !container.status().state.is_idle() {
            end_as_recorded(service, &container, unknown, Starts::UnderWay);
        }
    }
}

/// Handles the stop of a pod, which kills its containers. Usually each exit has been reported before.
pub(crate) fn stopped(service: &Arc<ServiceState>, pod: &Arc<Pod>) {
    service.set_aside.ended(&pod.id);
    let killed = || Exit {
        code: 137,
        reason: Reason::Error,
        message: "killed with its pod".to_owned(),
        started_at: None,
        finished_at: clock::now(),
    };
    for container in service.containers.of_pod(&pod.id) {
        if note_unnoted_start(service, &container) {
            end_as_recorded(service, &container, killed, Starts::Abandoned);
        } else if container.status().state.may_run() {
            end_as_recorded(service, &container, killed, Starts::UnderWay);
        }
        container_prepare::discard_in_background(service, &container);
    }
}
