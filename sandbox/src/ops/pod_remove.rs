//! Removes a pod and its remains on the machine.

use std::sync::Arc;

use crisp_operation::Operation;

use super::teardown;
use crate::error::PodError;
use crate::pod::Pod;
use crate::pod::state::PodStatus;
use crate::service_state::{PodEvent, ServiceState};

pub(crate) const OPERATION: &str = "remove_pod";

/// See [`Pods::remove`](crate::Pods::remove).
pub(crate) async fn remove(service: &Arc<ServiceState>, pod: &Arc<Pod>) -> Result<(), PodError> {
    let mut operation = Operation::new(&service.metrics, OPERATION, format!("pod {}", pod.id));
    let turn = operation.turn(service.lock(&pod.id, OPERATION)).await?;
    operation.hold(turn);
    // Another remove may have been faster, or its record may have been read: then another object is listed
    // for it.
    let Some(pod) = &service.table.get(&pod.id) else { return Ok(()) };
    let mut failures = teardown::take_down(service, pod, &operation).await;
    if failures.is_empty() {
        // Not written: until the record is removed, a starting server sees a stopped pod.
        let _ = pod.status.show(PodStatus::removing);
        failures.extend(teardown::remove_files(service, pod, &operation).await.err());
    }
    if failures.is_empty() {
        service.table.remove(pod);
        service.emit(PodEvent::Removed(pod.clone()));
    }
    teardown::end(operation, OPERATION, pod, failures).await
}
