//! Keeps an eye on a pod's monitor: a lost connection is made again, a monitor that is gone makes
//! the pod Lost.

use std::sync::Arc;
use std::time::Duration;

use crate::link::MonitorLink;
use crate::pod::{Pod, PodState};
use crate::pods::{PodEvent, Pods};

const CONNECT: Duration = Duration::from_secs(2);
const TRIES: u32 = 5;

/// Watches until the pod is stopped or lost.
pub(crate) fn watch(pods: &Pods, pod: &Arc<Pod>, link: MonitorLink) {
    let (pods, pod) = (pods.clone(), pod.clone());
    tokio::spawn(async move {
        let mut link = link;
        loop {
            disconnected(&link).await;
            if !watched(&pod) {
                return;
            }
            match reconnect(&pods, &pod).await {
                Some(again) => {
                    link = again.clone();
                    pod.set_link(Some(again));
                    pods.announce(PodEvent::Linked(pod.clone()));
                }
                None => return lost(&pods, &pod).await,
            }
        }
    });
}

async fn disconnected(link: &MonitorLink) {
    use tokio::sync::broadcast::error::RecvError;
    let mut events = link.events();
    loop {
        match events.recv().await {
            Err(RecvError::Closed) => return,
            Ok(_) | Err(RecvError::Lagged(_)) => {}
        }
    }
}

/// A pod being taken down loses its connection as it should.
fn watched(pod: &Pod) -> bool {
    pod.status().state == PodState::Ready && pod.any_link().is_some()
}

async fn reconnect(pods: &Pods, pod: &Pod) -> Option<MonitorLink> {
    let socket = pods.shared.layout.socket(&pod.id);
    for attempt in 1..=TRIES {
        match MonitorLink::connect(&socket, CONNECT).await {
            Ok(link) => return Some(link),
            Err(error) if error.is_gone() => return None,
            Err(error) => tracing::warn!(pod = %pod.id, attempt, %error, "cannot reach the pod's monitor"),
        }
        tokio::time::sleep(Duration::from_millis(200) * attempt).await;
    }
    None
}

/// The monitor died. Its containers may still run, with nobody to log or reap them: who follows
/// [`PodEvent::Lost`] ends them.
async fn lost(pods: &Pods, pod: &Arc<Pod>) {
    let turn = pods.turn(&pod.id);
    let _guard = turn.lock().await;
    if !watched(pod) {
        return;
    }
    tracing::error!(pod = %pod.id, name = %pod.config.name, "the pod's monitor is gone; the pod is not ready any more");
    pod.set_link(None);
    pod.update_anyway(|record| {
        record.state = PodState::Lost;
        record.monitor_pid = None;
    });
    pods.announce(PodEvent::Lost(pod.clone()));
}
