//! Watches a pod's monitor: reconnects a lost connection, however long that takes; the end of a monitor makes
//! the pod Lost; the end of a shared PID namespace makes it Degraded.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::broadcast::error::RecvError;
use tokio::task::spawn_blocking;

use super::monitor_probe::{Probe, probe};
use crate::link::{Event, LinkError, MonitorLink};
use crate::namespace::{NetworkMode, PidMode};
use crate::network::PodNetlink;
use crate::pod::Pod;
use crate::pod::state::PodStatus;
use crate::service_state::{PodEvent, ServiceState};

/// The first and the longest time limit for one try to reach the monitor.
const ANSWER: [Duration; 2] = [Duration::from_secs(3), Duration::from_secs(60)];
/// The first and the longest pause between two tries.
const PAUSE: [Duration; 2] = [Duration::from_millis(50), Duration::from_secs(10)];

/// Watches until the pod is stopped or lost. Without `link`, it first connects to the monitor. `check` is set
/// when earlier events of the monitor may have been missed.
pub(crate) fn watch(service: &Arc<ServiceState>, pod: &Arc<Pod>, link: Option<MonitorLink>, check: bool) {
    let (service, pod) = (service.clone(), pod.clone());
    tokio::spawn(async move {
        let (mut link, mut check) = (link, check);
        while pod.status().state.may_run() {
            match link.take() {
                Some(link) => follow(&service, &pod, &link, check).await,
                None => match reconnect(&service, &pod).await {
                    Some(again) => link = Some(again),
                    None => return,
                },
            }
            check = true;
        }
    });
}

/// Returns when the connection has ended.
async fn follow(service: &ServiceState, pod: &Arc<Pod>, link: &MonitorLink, check: bool) {
    let mut events = link.events();
    if check {
        check_init(service, pod, link).await;
    }
    loop {
        match events.recv().await {
            Err(RecvError::Closed) => return,
            Ok(Event::InitExited { status }) => degrade(service, pod, &status.to_string()),
            Err(RecvError::Lagged(_)) => check_init(service, pod, link).await,
            Ok(
                Event::Exited { .. }
                | Event::ExecExited { .. }
                | Event::LogFailing { .. }
                | Event::LogWorking { .. },
            ) => {}
        }
    }
}

/// Checks whether the first process of a shared PID namespace lives.
async fn check_init(service: &ServiceState, pod: &Arc<Pod>, link: &MonitorLink) {
    if pod.config.pid != PidMode::Pod {
        return;
    }
    match link.report().await {
        Ok(report) if report.opened && report.init.is_none() => degrade(service, pod, "unknown"),
        Ok(_) => {}
        Err(error) => {
            tracing::warn!(pod = %pod.id, %error, "cannot ask whether the shared PID namespace lives")
        }
    }
}

fn degrade(service: &ServiceState, pod: &Arc<Pod>, exit: &str) {
    let why = format!(
        "the first process of its shared PID namespace ended, exit status {exit}: nothing can be started in \
         it any more; make the pod anew"
    );
    // Refused while the pod is stopped, which ends that process too.
    let Ok((before, after)) = pod.status.observe(|status| status.degraded(why)) else { return };
    // Each new connection to the monitor checks again.
    if before.state.name() != after.state.name() {
        tracing::error!(pod = %pod.id, name = %pod.config.name, exit, "the first process of the pod's shared PID namespace ended; the pod is not ready any more");
        service.emit(PodEvent::Degraded(pod.clone()));
    }
}

/// Tries to reach the monitor until it answers or has ended, or the pod is stopped.
async fn reconnect(service: &Arc<ServiceState>, pod: &Arc<Pod>) -> Option<MonitorLink> {
    let [mut answer, longest_answer] = ANSWER;
    let [mut pause, longest_pause] = PAUSE;
    let mut closed_before = false;
    while pod.status().state.may_run() {
        match probe(service, &pod.id, pod.status().monitor_pid, answer).await {
            Probe::Reached(link) => return reached(service, pod, link).await,
            Probe::Gone => {
                lost(service, pod);
                return None;
            }
            // A monitor that is ending closes its sockets one after the other.
            Probe::Silent(LinkError::Gone { .. }) if !closed_before => closed_before = true,
            Probe::Silent(error) => {
                silent(service, pod, &error);
                answer = (answer * 2).min(longest_answer);
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(longest_pause);
    }
    None
}

/// Uses a new connection to the monitor, unless the pod has been stopped meanwhile.
pub(crate) async fn reached(
    service: &ServiceState,
    pod: &Arc<Pod>,
    link: MonitorLink,
) -> Option<MonitorLink> {
    let network = match pod.netlink() {
        Some(_) => None,
        // Its counters are those of the other pod.
        None if matches!(pod.config.network, NetworkMode::Joined(_)) => None,
        None => link.within(ANSWER[0]).network().await.ok(),
    };
    let kept = match service.networks.lacks_ports(&pod.id) {
        true => Some(link.within(ANSWER[0]).copy_ports().await),
        false => None,
    };
    if !pod.status().state.may_run() {
        return None;
    }
    if let Some(kept) = kept {
        complete_ports(service, pod, kept).await;
    }
    if let Some(network) = network {
        pod.set_netlink(PodNetlink::new(network.netlink));
    }
    pod.set_link(link.clone());
    // A stop that has ended meanwhile came too early for these: they would keep the network namespace.
    if pod.status().state.is_torn_down() {
        pod.disconnect();
        return None;
    }
    let _ = pod.status.show(PodStatus::answering);
    service.emit(PodEvent::Connected(pod.clone()));
    Some(link)
}

/// Takes over the host ports that the monitor has kept while no server ran.
async fn complete_ports(service: &ServiceState, pod: &Pod, kept: Result<Vec<OwnedFd>, LinkError>) {
    let kept = match kept {
        Ok(kept) => kept,
        Err(error) => {
            // The next connection asks again; until it ends the monitor holds them.
            tracing::warn!(pod = %pod.id, %error, "cannot ask the monitor for the host ports that it holds");
            return;
        }
    };
    let (networks, id) = (service.networks.clone(), pod.id.clone());
    // Should it panic, the monitor still holds them.
    let _ = spawn_blocking(move || networks.complete_ports(&id, kept)).await;
}

/// Records that the monitor does not answer. The containers probably still run.
pub(crate) fn silent(service: &ServiceState, pod: &Arc<Pod>, error: &LinkError) {
    // Not written: a starting server tries to reach the monitor anyway.
    let Ok((before, after)) = pod.status.show(|status| status.silent(error.to_string())) else { return };
    if before.state.name() != after.state.name() {
        tracing::error!(pod = %pod.id, name = %pod.config.name, %error, "the pod's monitor does not answer; trying on");
        service.emit(PodEvent::Silent(pod.clone()));
    }
}

/// Records that the monitor has ended. Its containers may still run, but nothing logs or reaps them: a
/// receiver of [`PodEvent::Lost`] ends them.
pub(crate) fn lost(service: &ServiceState, pod: &Arc<Pod>) {
    // Refused while the pod is stopped, which ends the monitor too.
    if pod.status.observe(PodStatus::lost).is_ok() {
        tracing::error!(pod = %pod.id, name = %pod.config.name, "the pod's monitor is gone; the pod is not ready any more");
        pod.disconnect();
        service.emit(PodEvent::Lost(pod.clone()));
        // If this server does not have them, they ended with the monitor.
        if service.networks.lacks_ports(&pod.id) {
            let (networks, id) = (service.networks.clone(), pod.id.clone());
            spawn_blocking(move || networks.complete_ports(&id, Vec::new()));
        }
    }
}
