//! Looks after the pods' networks: while the server runs, and for pods of an earlier one.

use std::sync::Arc;
use std::time::Duration;

use crate::namespace::NamespaceMode;
use crate::network::{LastUpkeep, LostPod, interfaces};
use crate::pod::Pod;
use crate::service_state::ServiceState;

/// Another program that removes all packet rules cuts pods off for so long at most.
const INTERVAL: Duration = Duration::from_secs(5);

/// Ends with the service.
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

/// Gives a pod of an earlier server its network record back, where that was lost. Does nothing
/// for a pod whose network record is there, or whose interface is gone.
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
