//! Follows all pods: turns their changes into events for clients, and the reports of their monitors into the
//! status of their containers.
//!
//! ```text
//!   Pods::events ─ Made, Connected ─> follow(pod):  subscribe ─> report ─> reconcile ─> events of the monitor…
//!                ─ Lost, Stopped   ─> its containers have exited
//! ```
//!
//! It subscribes before it requests a report, so that each exit is in at least one of them.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use crisp_operation::fault;
use crisp_sandbox::link;
use crisp_sandbox::{Pod, PodEvent};
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::Instant;

use crate::events::Kind;
use crate::exits::{self, ExitReport, Reconciled, Starts};
use crate::service_state::ServiceState;

/// Delay before the next try after a slow monitor gave no report. Only the report may have some exits.
const AGAIN: Duration = Duration::from_secs(5);
/// The same while a start of an earlier server is under way: no event tells its result.
const STARTED: Duration = Duration::from_millis(200);
/// Delay from the stop of a pod to its event. kubelet handles a stopped pod at once if a change is newer than
/// the end of its own stop, some milliseconds after the response; after an older change it waits for its next
/// listing, up to five seconds.
const AFTER_STOP: Duration = Duration::from_millis(100);

/// Follows all pods as long as the server lives.
pub(crate) fn follow_pods(service: &Arc<ServiceState>, mut events: broadcast::Receiver<PodEvent>) {
    let service = service.clone();
    tokio::spawn(async move {
        let mut stops = Stops::default();
        loop {
            let event = tokio::select! {
                biased;
                pod = stops.next() => {
                    if !is_replaced(&service, &pod) {
                        emit(&service, Kind::Stopped, &pod);
                    }
                    continue;
                }
                event = events.recv() => event,
            };
            match event {
                Ok(event) => happened(&service, &event, &mut stops),
                // The present state of the pods includes the missed events.
                Err(RecvError::Lagged(_)) => {
                    service.pods.list().iter().for_each(|pod| catch_up(&service, pod))
                }
                Err(RecvError::Closed) => return,
            }
        }
    });
}

/// Stopped pods whose event is not sent yet, the earliest first.
#[derive(Default)]
struct Stops(VecDeque<(Instant, Arc<Pod>)>);

impl Stops {
    fn push(&mut self, pod: &Arc<Pod>) {
        self.0.push_back((Instant::now() + AFTER_STOP, pod.clone()));
    }

    /// Waits for the time of the next one; forever if there is none.
    async fn next(&mut self) -> Arc<Pod> {
        let Some((at, _)) = self.0.front() else { return std::future::pending().await };
        tokio::time::sleep_until(*at).await;
        match self.0.pop_front() {
            Some((_, pod)) => pod,
            None => std::future::pending().await,
        }
    }

    /// Takes all pods with this uid: for kubelet they are the same pod.
    fn take_of(&mut self, uid: &str) -> Vec<Arc<Pod>> {
        let (of_uid, others) =
            std::mem::take(&mut self.0).into_iter().partition(|(_, pod)| pod.config.uid == uid);
        self.0 = others;
        let of_uid: VecDeque<(Instant, Arc<Pod>)> = of_uid;
        of_uid.into_iter().map(|(_, pod)| pod).collect()
    }

    /// Takes one pod. Returns whether its event was still to be sent.
    fn take(&mut self, pod: &Pod) -> bool {
        let before = self.0.len();
        self.0.retain(|(_, stopped)| stopped.id != pod.id);
        self.0.len() < before
    }
}

fn happened(service: &Arc<ServiceState>, event: &PodEvent, stops: &mut Stops) {
    match event {
        PodEvent::Made(pod) => {
            // The pod that it replaces stopped before: kubelet takes the later event as the state of both.
            for stopped in stops.take_of(&pod.config.uid) {
                emit(service, Kind::Stopped, &stopped);
            }
            emit(service, Kind::Created, pod);
            emit(service, Kind::Started, pod);
            follow(service, pod, Monitor::Fresh);
        }
        PodEvent::Connected(pod) => follow(service, pod, Monitor::Known),
        PodEvent::Lost(pod) => {
            exits::lost(service, pod);
            emit(service, Kind::Stopped, pod);
        }
        // For clients it is no longer ready. The ends of its containers are separate events.
        PodEvent::Degraded(pod) => emit(service, Kind::Stopped, pod),
        PodEvent::Stopped(pod) => {
            exits::stopped(service, pod);
            stops.push(pod);
        }
        PodEvent::Removed(pod) => {
            if stops.take(pod) {
                emit(service, Kind::Stopped, pod);
            }
            emit(service, Kind::Deleted, pod);
        }
        // Its containers probably still run.
        PodEvent::Silent(_) => {}
    }
}

/// Whether there is a later pod with the same uid.
fn is_replaced(service: &ServiceState, pod: &Pod) -> bool {
    let is_later = |other: &Arc<Pod>| other.config.uid == pod.config.uid && other.created_at > pod.created_at;
    service.pods.list().iter().any(is_later)
}

fn emit(service: &ServiceState, kind: Kind, pod: &Arc<Pod>) {
    service.emitter().emit_pod(kind, pod);
}

fn catch_up(service: &Arc<ServiceState>, pod: &Arc<Pod>) {
    let state = &pod.status().state;
    if state.may_run() {
        follow(service, pod, Monitor::Known);
    } else if state.is_torn_down() {
        exits::stopped(service, pod);
    } else {
        exits::lost(service, pod);
    }
}

/// The kind of monitor that is followed from now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Monitor {
    /// It has just been started.
    Fresh,
    /// It may have containers.
    Known,
}

/// The time of the next report.
fn next_report(reconciled: Reconciled) -> Option<Instant> {
    match reconciled {
        Reconciled::Done => None,
        Reconciled::StartUnderWay => Some(Instant::now() + STARTED),
        Reconciled::Silent => Some(Instant::now() + AGAIN),
    }
}

/// Follows one connection to a pod's monitor until it ends. [`PodEvent::Connected`] announces a new one, also when it
/// is followed already: it may have come while the server recovered.
pub(crate) fn follow(service: &Arc<ServiceState>, pod: &Arc<Pod>, monitor: Monitor) {
    let Ok(link) = pod.link() else { return };
    let Some(following) = service.followed.begin(&pod.id, &link) else { return };
    let (service, pod) = (service.clone(), pod.clone());
    tokio::spawn(async move {
        let _following = following;
        let mut events = link.events();
        let reconcile = || exits::reconcile(&service, &pod, &link, Starts::UnderWay);
        // A fresh monitor has nothing to report before the pod gets its first container.
        let is_empty = monitor == Monitor::Fresh && service.containers.of_pod(&pod.id).is_empty();
        // A separate time: frequent events must not delay it.
        let mut again = if is_empty { None } else { next_report(reconcile().await) };
        loop {
            let event = tokio::select! {
                event = events.recv() => event,
                () = tokio::time::sleep_until(again.unwrap_or_else(Instant::now)), if again.is_some() => {
                    again = next_report(reconcile().await);
                    continue;
                }
            };
            match event {
                Ok(link::Event::Exited { container, pid, started_at_ns, exit }) => {
                    // Where it is lost, the next signal to the container finds that out.
                    if fault::point("follow_pod", "exit", container.as_str()).is_err() {
                        continue;
                    }
                    let report = ExitReport { pid, started_at_ns, exit };
                    exits::exited(&service, &container, &report);
                    // A report beside it may have the same exit.
                    if fault::point("follow_pod", "second_exit", container.as_str()).is_err() {
                        exits::exited(&service, &container, &report);
                    }
                }
                Ok(link::Event::LogFailing { container, errno }) => {
                    let error = std::io::Error::from_raw_os_error(errno);
                    tracing::warn!(%container, %error, "a log cannot be written; the container waits");
                }
                Ok(link::Event::LogWorking { container }) => {
                    tracing::info!(%container, "the log can be written again");
                }
                Ok(link::Event::InitExited { status }) => {
                    // Also sent whenever such a pod is stopped. Otherwise it makes the pod Degraded, see
                    // PodEvent.
                    tracing::info!(pod = %pod.id, %status, "the first process of the pod's PID namespace ended");
                }
                Err(RecvError::Lagged(_)) => again = next_report(reconcile().await),
                // The link itself follows execs.
                Ok(link::Event::ExecExited { .. }) => {}
                Err(RecvError::Closed) => return,
            }
        }
    });
}
