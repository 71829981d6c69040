//! Gives a pod of an earlier server its network record back, where that was lost.

use crate::namespace::NamespaceMode;
use crate::network::{LostPod, interfaces};
use crate::pod::Pod;
use crate::service_state::ServiceState;

/// Does nothing for a pod whose network record is there, or whose interface is gone.
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
