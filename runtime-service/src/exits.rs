//! Exits: what the monitors report becomes the status of the containers.
//!
//! ```text
//!   Pods::events ─ Connected(pod) ─> follow(pod):  subscribe ─> report ─> reconcile ─> events…
//!                ─ Lost(pod)   ─> its containers have exited, with the code that the monitor recorded if any
//! ```
//!
//! Subscribing comes before asking for a report, so that an exit is in one of them at least; a second report
//! of an exit changes nothing. An exit is noted in memory at once, whether the disk accepts it or not.

use std::collections::HashMap;
use std::fs;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use crisp_executor::id::ContainerId;
use crisp_operation::clock;
use crisp_sandbox::link::{self, ContainerReport, ContainerState, ExitRecord, MonitorLink};
use crisp_sandbox::{Pod, PodEvent};
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use crate::cause::Steps;
use crate::container::Container;
use crate::container::exit::{Exit, Reason};
use crate::container::signal::Signal;
use crate::container::state::State;
use crate::events::Kind;
use crate::ops::container_cgroup;
use crate::service_state::ServiceState;

const CLEAN: Duration = Duration::from_secs(30);
/// From a report that a slow monitor did not give in time to the next try. Exits may be in it alone.
const AGAIN: Duration = Duration::from_secs(5);

/// Follows all pods, for as long as the server lives.
pub(crate) fn follow_pods(service: &Arc<ServiceState>, mut events: broadcast::Receiver<PodEvent>) {
    let service = service.clone();
    tokio::spawn(async move {
        loop {
            match events.recv().await {
                Ok(PodEvent::Connected(pod)) => follow(&service, &pod),
                Ok(PodEvent::Lost(pod)) => lost(&service, &pod),
                Ok(PodEvent::Stopped(pod)) => stopped(&service, &pod),
                // Its containers very likely run on, or their ends are events of their own.
                Ok(PodEvent::Silent(_) | PodEvent::Degraded(_) | PodEvent::Removed(_)) => {}
                // What was missed is in the pods' present state.
                Err(RecvError::Lagged(_)) => {
                    service.pods.list().iter().for_each(|pod| catch_up(&service, pod))
                }
                Err(RecvError::Closed) => return,
            }
        }
    });
}

fn catch_up(service: &Arc<ServiceState>, pod: &Arc<Pod>) {
    if pod.status().state.may_run() { follow(service, pod) } else { lost(service, pod) }
}

/// Follows one connection to a pod's monitor until it ends. A new one is announced by [`PodEvent::Connected`].
pub(crate) fn follow(service: &Arc<ServiceState>, pod: &Arc<Pod>) {
    let Ok(link) = pod.link() else { return };
    let (service, pod) = (service.clone(), pod.clone());
    tokio::spawn(async move {
        let mut events = link.events();
        let mut known = reconcile(&service, &pod, &link, Starts::UnderWay).await;
        loop {
            let event = tokio::select! {
                event = events.recv() => event,
                () = tokio::time::sleep(AGAIN), if !known => {
                    known = reconcile(&service, &pod, &link, Starts::UnderWay).await;
                    continue;
                }
            };
            match event {
                Ok(link::Event::Exited { container, pid, started_at_ns, exit }) => {
                    exited(&service, &pod, &container, &ExitReport { pid, started_at_ns, exit });
                }
                Ok(link::Event::LogFailing { container, errno }) => {
                    let error = std::io::Error::from_raw_os_error(errno);
                    tracing::warn!(%container, %error, "a log cannot be written; the container waits");
                }
                Ok(link::Event::LogWorking { container }) => {
                    tracing::info!(%container, "the log can be written again");
                }
                Ok(link::Event::InitExited { status }) => {
                    // Also whenever such a pod is stopped. Else it makes the pod Degraded, see PodEvent.
                    tracing::info!(pod = %pod.id, %status, "the first process of the pod's PID namespace ended");
                }
                Err(RecvError::Lagged(_)) => {
                    known = reconcile(&service, &pod, &link, Starts::UnderWay).await;
                }
                // The link itself follows execs.
                Ok(link::Event::ExecExited { .. }) => {}
                Err(RecvError::Closed) => return,
            }
        }
    });
}

/// An exit as a monitor reports it.
struct ExitReport {
    pid: i32,
    started_at_ns: i64,
    exit: link::Exit,
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

fn exited(service: &Arc<ServiceState>, pod: &Arc<Pod>, id: &ContainerId, report: &ExitReport) {
    let Some(container) = service.containers.get(id) else { return };
    let (pid, exit) = (report.pid, &report.exit);
    tracing::debug!(container = %id, pid, status = %exit.status, oom = exit.oom, "exited");
    end(service, pod, &container, report.exit());
}

/// Notes an exit and kills what the first process left in its cgroup.
fn end(service: &Arc<ServiceState>, pod: &Arc<Pod>, container: &Arc<Container>, exit: Exit) {
    match container.observe(|state| state.exited(exit)) {
        Ok((before, _)) => {
            // During a start, the start itself sends the event after the one that it began.
            if before.state.may_run() {
                service.events.emit(Kind::Stopped, container.id().as_str(), &pod.id);
            }
            clean(service, pod, container);
        }
        Err(refusal) => tracing::error!(container = %container.id(), %refusal, "an exit that cannot be"),
    }
}

fn clean(service: &Arc<ServiceState>, pod: &Arc<Pod>, container: &Arc<Container>) {
    let (service, pod, container) = (service.clone(), pod.clone(), container.clone());
    container.exec_process.lock().unwrap_or_else(PoisonError::into_inner).take();
    container.meters.cgroup.reader.close();
    tokio::spawn(async move {
        let operation = service.operation("clean_up_exit", container.id());
        let work = move |steps: &Steps| {
            steps.step("cgroup", || container_cgroup::remove(&service, &container, &pod))
        };
        let result = operation.blocking(CLEAN, work).await;
        if let Err(error) = operation.finish(result).await {
            tracing::warn!(%error, "the container's removal tries again");
        }
    });
}

/// Who receives the response to a start that is not finished.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Starts {
    /// The operation that sent the request.
    UnderWay,
    /// No operation: the request came from an earlier server.
    Abandoned,
}

/// Compares what is known with what the monitor reports. False when it gives no report.
pub(crate) async fn reconcile(
    service: &Arc<ServiceState>,
    pod: &Arc<Pod>,
    link: &MonitorLink,
    starts: Starts,
) -> bool {
    // Taken before the question: what started after it cannot be in the report.
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
            return false;
        }
    };
    let mut reports: HashMap<ContainerId, ContainerReport> =
        report.containers.into_iter().map(|report| (report.id.clone(), report)).collect();
    for (container, state) in before {
        match reports.remove(container.id()) {
            // Idle before and after: not one whose start came between.
            Some(report)
                if matches!(report.state, ContainerState::Running)
                    && state.is_idle()
                    && container.status().state.is_idle() =>
            {
                kill_leftover(link, &container).await;
            }
            Some(report) => take_over(service, pod, &container, &report, starts),
            None if state.may_run() => {
                let exit = recorded(pod, &container).unwrap_or_else(|| {
                    Exit::lost("the pod's monitor does not know it".to_owned(), clock::now())
                });
                end(service, pod, &container, exit);
            }
            None => {}
        }
    }
    for report in reports.into_values().filter(|report| service.containers.get(&report.id).is_none()) {
        without_record(link, pod, &report).await;
    }
    true
}

/// A start that was given up has succeeded after all.
async fn kill_leftover(link: &MonitorLink, container: &Container) {
    tracing::warn!(container = %container.id(), "runs although it has ended: killed");
    if let Err(error) = link.signal(container.id(), Signal::KILL.number(), true).await {
        tracing::warn!(container = %container.id(), %error, "cannot kill it");
    }
}

/// The monitor has a container that was removed, or whose record could not be read.
async fn without_record(link: &MonitorLink, pod: &Pod, report: &ContainerReport) {
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
    pod: &Arc<Pod>,
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
            let running = |state: &State| state.running(report.pid, report.started_at_ns);
            if is_news && let Err(refusal) = container.observe(running) {
                tracing::error!(container = %container.id(), %refusal, "cannot take over a running container");
            }
        }
        ContainerState::Exited(exit) if !container.status().state.is_idle() => {
            let report = ExitReport { pid: report.pid, started_at_ns: report.started_at_ns, exit };
            end(service, pod, container, report.exit());
        }
        ContainerState::Exited(_) => {}
    }
}

/// The monitor does not answer: what ran very likely runs on, and a kubelet would kill a container in an
/// unknown state. Whether a start that was under way succeeded is not known.
pub(crate) fn silent(service: &ServiceState, pod: &Pod) {
    for container in service.containers.of_pod(&pod.id) {
        if container.status().state == State::Starting {
            let why = "the pod's monitor does not answer".to_owned();
            if let Err(refusal) = container.observe(|state| state.lost(why)) {
                tracing::error!(container = %container.id(), %refusal, "cannot note that its state is unknown");
            }
        }
    }
}

/// What the monitor recorded before it ended.
pub(crate) fn recorded(pod: &Pod, container: &Container) -> Option<Exit> {
    let path = pod.exits_folder().join(ExitRecord::file_name(container.id()));
    let record = ExitRecord::parse(&fs::read_to_string(path).ok()?)
        .inspect_err(
            |error| tracing::warn!(container = %container.id(), %error, "cannot read an exit record"),
        )
        .ok()?;
    Some(ExitReport { pid: record.pid, started_at_ns: record.started_at_ns, exit: record.exit }.exit())
}

/// The monitor is gone, and its containers with it.
pub(crate) fn lost(service: &Arc<ServiceState>, pod: &Arc<Pod>) {
    for container in service.containers.of_pod(&pod.id) {
        if !container.status().state.is_idle() {
            let exit = recorded(pod, &container).unwrap_or_else(|| {
                Exit::lost("the pod's monitor ended and left no record of its exit".to_owned(), clock::now())
            });
            end(service, pod, &container, exit);
        }
    }
}

/// Stopping a pod kills what runs in it. Usually each exit has been reported before.
fn stopped(service: &Arc<ServiceState>, pod: &Arc<Pod>) {
    for container in service.containers.of_pod(&pod.id) {
        if container.status().state.may_run() {
            let killed = || Exit {
                code: 137,
                reason: Reason::Error,
                message: "killed with its pod".to_owned(),
                started_at: None,
                finished_at: clock::now(),
            };
            end(service, pod, &container, recorded(pod, &container).unwrap_or_else(killed));
        }
    }
}
