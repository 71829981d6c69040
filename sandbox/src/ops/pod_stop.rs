//! Stops a pod: releases its resources and keeps its record.

use std::sync::Arc;

use crisp_operation::Operation;

use super::teardown;
use crate::error::PodError;
use crate::pod::Pod;
use crate::service_state::ServiceState;

pub(crate) const OPERATION: &str = "stop_pod";

/// See [`Pods::stop`](crate::Pods::stop).
pub(crate) async fn stop(service: &Arc<ServiceState>, pod: &Arc<Pod>) -> Result<(), PodError> {
    let mut operation = Operation::new(&service.metrics, OPERATION, format!("pod {}", pod.id));
    let turn = operation.turn(service.lock(&pod.id, OPERATION)).await?;
    operation.hold(turn);
    // Its record may have been read meanwhile: then another object is listed for it.
    let Some(pod) = &service.table.get(&pod.id) else { return Ok(()) };
    if pod.status().state.is_torn_down() {
        return Ok(());
    }
    let failures = teardown::take_down(service, pod, &operation).await;
    teardown::end(operation, OPERATION, pod, failures).await
}
