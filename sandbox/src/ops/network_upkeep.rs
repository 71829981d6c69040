//! Maintains the pods' networks: while the server runs, and for pods of an earlier one.

use std::sync::Arc;
use std::time::Duration;

use crate::namespace::NamespaceMode;
use crate::network::{LastUpkeep, LostPod, interfaces};
use crate::pod::Pod;
use crate::service_state::ServiceState;

/// Maximal time for which pods are cut off after another program has removed all packet rules.
const INTERVAL: Duration = Duration::from_secs(5);

/// Runs until the service ends.
pub(crate) fn start(service: &Arc<ServiceState>) {
    let service = Arc::downgrade(service);
    tokio::spawn(async move {
        let mut last = LastUpkeep::default();
        while let Some(service) = service.upgrade() {
            service.networks.keep_up(&mut last).await;
            drop(service);
            tokio::time::sleep(INTERVAL).await;
        }
    });
}

/// Restores the network record of a pod of an earlier server if it was lost. Does nothing if the record
/// exists or the interface is gone.
pub(crate) fn adopt(service: &ServiceState, pod: &Pod) {
    if pod.config.network == NamespaceMode::Host {
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
