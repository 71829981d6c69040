//! StopPodSandbox: kills all containers of the pod, then stops it. Succeeds for an unknown pod, as the
//! contract requires.

use std::sync::Arc;
use std::time::Duration;

use crisp_proto::runtime::v1::{StopPodSandboxRequest, StopPodSandboxResponse};
use crisp_sandbox::{FindError, Pod, PodState};
use tokio::task::JoinSet;

use super::{Reply, ServiceState};
use crate::error::RuntimeError;
use crate::events::Kind;
use crate::ops;

pub(super) async fn call(
    service: &Arc<ServiceState>,
    request: StopPodSandboxRequest,
) -> Reply<StopPodSandboxResponse> {
    match service.pods.find(&request.pod_sandbox_id) {
        Ok(pod) => stop(service, &pod).await?,
        Err(FindError::None { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(StopPodSandboxResponse {})
}

/// Stops the containers and then the pod.
pub(super) async fn stop(service: &Arc<ServiceState>, pod: &Arc<Pod>) -> Result<(), RuntimeError> {
    let was = pod.status().state.clone();
    let mut stops = JoinSet::new();
    for container in service.containers.of_pod(&pod.id) {
        let service = service.clone();
        stops.spawn(async move { ops::container_stop::stop(&service, container, Duration::ZERO).await });
    }
    let mut failure = None;
    while let Some(stopped) = stops.join_next().await {
        if let Ok(Err(error)) = stopped {
            failure.get_or_insert(error);
        }
    }
    service.stats.pods.remove(&pod.id);
    // Also after a failure: a container that cannot be stopped by itself ends with its pod's monitor.
    service.pods.stop(&pod.id).await?;
    if let Some(error) = failure {
        tracing::warn!(pod = %pod.id, %error, "a container could not be stopped before its pod");
    }
    if was != PodState::Stopped {
        service.events.emit(Kind::Stopped, pod.id.as_str(), &pod.id);
    }
    Ok(())
}
