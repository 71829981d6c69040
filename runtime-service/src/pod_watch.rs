//! Follows all pods: what happens to them becomes events for clients, and what their monitors report becomes
//! the status of their containers.
//!
//! ```text
//!   Pods::events ─ Made, Connected ─> follow(pod):  subscribe ─> report ─> reconcile ─> events of the monitor…
//!                ─ Lost, Stopped   ─> its containers have exited
//! ```
//!
//! Subscribing comes before asking for a report, so that an exit is in one of them at least.

use std::sync::Arc;
use std::time::Duration;

use crisp_sandbox::{Pod, PodEvent, link};
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::Instant;

use crate::events::Kind;
use crate::exits::{self, ExitReport, Starts};
use crate::service_state::ServiceState;

/// From a report that a slow monitor did not give in time to the next try. Exits may be in it alone.
const AGAIN: Duration = Duration::from_secs(5);

/// Follows all pods, for as long as the server lives.
pub(crate) fn follow_pods(service: &Arc<ServiceState>, mut events: broadcast::Receiver<PodEvent>) {
    let service = service.clone();
    tokio::spawn(async move {
        loop {
            match events.recv().await {
                Ok(event) => happened(&service, &event),
                // What was missed is in the pods' present state.
                Err(RecvError::Lagged(_)) => {
                    service.pods.list().iter().for_each(|pod| catch_up(&service, pod))
                }
                Err(RecvError::Closed) => return,
            }
        }
    });
}

fn happened(service: &Arc<ServiceState>, event: &PodEvent) {
    match event {
        PodEvent::Made(pod) => {
            emit(service, Kind::Created, pod);
            emit(service, Kind::Started, pod);
            follow(service, pod, Monitor::Fresh);
        }
        PodEvent::Connected(pod) => follow(service, pod, Monitor::Known),
        PodEvent::Lost(pod) => exits::lost(service, pod),
        PodEvent::Stopped(pod) => {
            exits::stopped(service, pod);
            emit(service, Kind::Stopped, pod);
        }
        PodEvent::Removed(pod) => emit(service, Kind::Deleted, pod),
        // Its containers very likely run on, or their ends are events of their own.
        PodEvent::Silent(_) | PodEvent::Degraded(_) => {}
    }
}

fn emit(service: &ServiceState, kind: Kind, pod: &Pod) {
    service.events.emit(kind, pod.id.as_str(), &pod.id);
}

fn catch_up(service: &Arc<ServiceState>, pod: &Arc<Pod>) {
    if pod.status().state.may_run() {
        follow(service, pod, Monitor::Known);
    } else {
        exits::lost(service, pod);
    }
}

/// A monitor that begins to be followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Monitor {
    /// It has just been started.
    Fresh,
    /// It has had containers, perhaps.
    Known,
}

/// Follows one connection to a pod's monitor until it ends. A new one is announced by [`PodEvent::Connected`].
pub(crate) fn follow(service: &Arc<ServiceState>, pod: &Arc<Pod>, monitor: Monitor) {
    let Ok(link) = pod.link() else { return };
    let (service, pod) = (service.clone(), pod.clone());
    tokio::spawn(async move {
        let mut events = link.events();
        let reconcile = || exits::reconcile(&service, &pod, &link, Starts::UnderWay);
        // A fresh one has nothing to report before the pod gets its first container.
        let is_empty = monitor == Monitor::Fresh && service.containers.of_pod(&pod.id).is_empty();
        let mut known = is_empty || reconcile().await;
        // A time of its own: events that come more often must not put it off.
        let mut again = Instant::now() + AGAIN;
        loop {
            let event = tokio::select! {
                event = events.recv() => event,
                () = tokio::time::sleep_until(again), if !known => {
                    known = reconcile().await;
                    again = Instant::now() + AGAIN;
                    continue;
                }
            };
            match event {
                Ok(link::Event::Exited { container, pid, started_at_ns, exit }) => {
                    exits::exited(&service, &container, &ExitReport { pid, started_at_ns, exit });
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
                    known = reconcile().await;
                    again = Instant::now() + AGAIN;
                }
                // The link itself follows execs.
                Ok(link::Event::ExecExited { .. }) => {}
                Err(RecvError::Closed) => return,
            }
        }
    });
}
