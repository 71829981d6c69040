//! Exits: every monitor's word on how its containers end becomes their status.
//!
//! ```text
//!   Pods::events ─ Connected(pod) ─> follow(pod):  subscribe ─> report ─> reconcile ─> events…
//!                ─ Lost(pod)   ─> all its containers that ran have exited, nobody knows how
//! ```
//!
//! Subscribing comes before asking for a report, so an exit is in one of them at least; being told
//! twice changes nothing.

use std::collections::HashMap;
use std::fs;
use std::sync::Arc;
use std::time::Duration;

use crisp_executor::id::ContainerId;
use crisp_sandbox::link::{self, ContainerReport, ContainerState, ExitRecord, MonitorLink};
use crisp_sandbox::{Pod, PodEvent};
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use crate::clock;
use crate::container::Container;
use crate::container::exit::{Exit, Reason};
use crate::container::state::State;
use crate::events::Kind;
use crate::ops::container_start::remove_cgroup;
use crate::service_state::ServiceState;

const CLEAN: Duration = Duration::from_secs(30);

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
        reconcile(&service, &pod, &link, Starts::UnderWay).await;
        loop {
            match events.recv().await {
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
                    tracing::info!(pod = %pod.id, %status, "the pod's shared PID namespace has ended");
                }
                Err(RecvError::Lagged(_)) => reconcile(&service, &pod, &link, Starts::UnderWay).await,
                // The link itself follows execs.
                Ok(link::Event::ExecExited { .. }) => {}
                Err(RecvError::Closed) => return,
            }
        }
    });
}

/// What a monitor says of an exit.
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

fn exited(service: &Arc<ServiceState>, pod: &Arc<Pod>, id: &ContainerId, told: &ExitReport) {
    let Some(container) = service.containers.get(id) else { return };
    tracing::debug!(container = %id, pid = told.pid, status = %told.exit.status, oom = told.exit.oom, "exited");
    end(service, pod, &container, told.exit());
}

/// Notes an exit and clears away what the first process left in its cgroup.
fn end(service: &Arc<ServiceState>, pod: &Arc<Pod>, container: &Arc<Container>, exit: Exit) {
    match container.status_cell.update(|state| state.exited(exit)) {
        // While starting, the answer to the start tells both.
        Ok((State::Exited(_) | State::Starting, _)) => {}
        Ok(_) => service.events.emit(Kind::Stopped, container.id().as_str(), &pod.id),
        Err(error) => {
            tracing::error!(container = %container.id(), %error, "cannot note an exit");
            return;
        }
    }
    clean(service, pod, container);
}

fn clean(service: &Arc<ServiceState>, pod: &Arc<Pod>, container: &Arc<Container>) {
    let (service, pod, container) = (service.clone(), pod.clone(), container.clone());
    container.exec.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
    container.meters.cgroup.reader.close();
    tokio::spawn(async move {
        let id = container.id().clone();
        let stages = service.stages("clean_up_exit");
        let owned = service.clone();
        let work = move |steps: &crate::stage::Steps| {
            steps.step("cgroup", || remove_cgroup(&owned, &container, &pod))
        };
        if let Err(error) = stages.blocking(CLEAN, work).await {
            tracing::warn!(container = %id, %error, "cannot clear away after a container; its removal tries again");
        }
    });
}

/// Who hears the answer to starts that are not finished.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Starts {
    /// The operation that asked.
    UnderWay,
    /// Nobody any more: whoever asked was in an earlier server.
    Abandoned,
}

/// Compares what is known with what the monitor says.
pub(crate) async fn reconcile(
    service: &Arc<ServiceState>,
    pod: &Arc<Pod>,
    link: &MonitorLink,
    starts: Starts,
) {
    // Taken before the question: what started after it cannot be in the answer.
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
            return;
        }
    };
    let mut told: HashMap<ContainerId, ContainerReport> =
        report.containers.into_iter().map(|container| (container.id.clone(), container)).collect();
    for (container, state) in before {
        match told.remove(container.id()) {
            Some(report) => take_over(service, pod, &container, &report, starts),
            None if matches!(state, State::Running { .. } | State::Unknown { .. }) => {
                let exit = recorded(pod, &container).unwrap_or_else(|| {
                    Exit::lost("the pod's monitor does not know it".to_owned(), clock::now())
                });
                end(service, pod, &container, exit);
            }
            None => {}
        }
    }
}

fn take_over(
    service: &Arc<ServiceState>,
    pod: &Arc<Pod>,
    container: &Arc<Container>,
    report: &ContainerReport,
    starts: Starts,
) {
    let known = container.status();
    match report.state {
        ContainerState::Starting => {}
        ContainerState::Running => {
            let ours = match known.state {
                State::Unknown { .. } => true,
                State::Starting => starts == Starts::Abandoned,
                State::Created | State::Running { .. } | State::Exited(_) => false,
            };
            let running = |state: &State| state.running(report.pid, report.started_at_ns);
            if ours && let Err(error) = container.status_cell.update(running) {
                tracing::error!(container = %container.id(), %error, "cannot note that it runs");
            }
        }
        ContainerState::Exited(exit) if known.state.exit().is_none() => {
            let told = ExitReport { pid: report.pid, started_at_ns: report.started_at_ns, exit };
            end(service, pod, container, told.exit());
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
            if let Err(error) = container.status_cell.update(|state| state.lost(why)) {
                tracing::error!(container = %container.id(), %error, "cannot note that nothing is known of it");
            }
        }
    }
}

/// What the monitor noted before it vanished.
pub(crate) fn recorded(pod: &Pod, container: &Container) -> Option<Exit> {
    let path = pod.exits_folder().join(ExitRecord::file_name(container.id()));
    let record = ExitRecord::parse(&fs::read_to_string(path).ok()?)
        .inspect_err(
            |error| tracing::warn!(container = %container.id(), %error, "an exit record is of no use"),
        )
        .ok()?;
    Some(ExitReport { pid: record.pid, started_at_ns: record.started_at_ns, exit: record.exit }.exit())
}

/// The monitor is gone and its containers with it, or about to be: nothing may run on unseen.
pub(crate) fn lost(service: &Arc<ServiceState>, pod: &Arc<Pod>) {
    for container in service.containers.of_pod(&pod.id) {
        if matches!(container.status().state, State::Running { .. } | State::Unknown { .. } | State::Starting)
        {
            let exit = recorded(pod, &container).unwrap_or_else(|| {
                Exit::lost("the pod's monitor ended without a word".to_owned(), clock::now())
            });
            end(service, pod, &container, exit);
        }
    }
}

/// Stopping a pod kills what runs in it. Usually each exit has been told before.
fn stopped(service: &Arc<ServiceState>, pod: &Arc<Pod>) {
    for container in service.containers.of_pod(&pod.id) {
        if matches!(container.status().state, State::Running { .. } | State::Unknown { .. }) {
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
