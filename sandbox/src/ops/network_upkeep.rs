//! Maintains the pods' networks: while the server runs, and for pods of an earlier one.

use std::sync::Arc;
use std::time::Duration;

use super::network_collect;
use crate::namespace::NetworkMode;
use crate::network::{LostPod, Networks, interfaces};
use crate::pod::Pod;
use crate::service_state::ServiceState;

/// Maximal time for which pods are cut off after another program has removed all packet rules.
const INTERVAL: Duration = Duration::from_secs(5);

/// Runs until the service ends. Separate tasks: a plugin that hangs must not hold up the packet rules.
pub(crate) fn start(service: &Arc<ServiceState>) {
    every(service, [Duration::ZERO, INTERVAL], |_, networks| async move { networks.keep_up().await });
    every(service, [Duration::ZERO, INTERVAL], |_, networks| async move { networks.retry_plugins().await });
    let interval = service.networks.collect_interval();
    every(service, [interval, interval], |service, networks| {
        let service = service.clone();
        // Reads folders, on a disk that may hang.
        let stale = tokio::task::spawn_blocking(move || network_collect::stale(&service));
        async move {
            if let Ok(stale) = stale.await {
                network_collect::give_back(&networks, stale).await;
            }
        }
    });
    if let Some(interval) = service.networks.check_interval() {
        every(service, [interval, interval], |_, networks| async move { networks.check_all().await });
    }
}

/// Does the work after the first pause, and then again and again with the second pause between. The work may
/// last longer than the service.
fn every<F: Future<Output = ()> + Send>(
    service: &Arc<ServiceState>,
    [first, pause]: [Duration; 2],
    work: impl Fn(&Arc<ServiceState>, Networks) -> F + Send + 'static,
) {
    let service = Arc::downgrade(service);
    tokio::spawn(async move {
        tokio::time::sleep(first).await;
        while let Some(work) = service.upgrade().map(|service| work(&service, service.networks.clone())) {
            work.await;
            tokio::time::sleep(pause).await;
        }
    });
}

/// Restores the network record of a pod of an earlier server if it was lost. Does nothing if the record
/// exists or the interface is gone.
pub(crate) fn adopt(service: &ServiceState, pod: &Pod) {
    if pod.config.network != NetworkMode::Pod {
        return;
    }
    service.networks.adopt(LostPod {
        pod: pod.id.clone(),
        name: pod.config.name.clone(),
        namespace: pod.config.namespace.clone(),
        ports: pod.config.port_mappings.clone(),
        interfaces: interfaces(&pod.config.annotations),
    });
}
