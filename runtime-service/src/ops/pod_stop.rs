//! StopPodSandbox: kills all containers of the pod, then stops the pod itself.

use std::sync::Arc;
use std::time::Duration;

use crisp_sandbox::Pod;
use tokio::task::JoinSet;

use super::container_stop;
use crate::error::RuntimeError;
use crate::service_state::ServiceState;

/// Stops the pod, or joins its stop under way. The work continues if the caller leaves.
///
/// # Errors
/// Stages failed; the pod can be stopped again.
pub async fn stop(service: &Arc<ServiceState>, pod: Arc<Pod>) -> Result<(), RuntimeError> {
    let (owned, id) = (service.clone(), pod.id.clone());
    let stopped = service.pod_stops.run(id, move || async move { stop_once(&owned, &pod).await });
    Ok(stopped.await?)
}

async fn stop_once(service: &Arc<ServiceState>, pod: &Arc<Pod>) -> Result<(), RuntimeError> {
    let mut stops = JoinSet::new();
    for container in service.containers.of_pod(&pod.id) {
        let service = service.clone();
        stops.spawn(async move { container_stop::stop(&service, container, Duration::ZERO).await });
    }
    let mut failure = None;
    while let Some(stopped) = stops.join_next().await {
        if let Ok(Err(error)) = stopped {
            failure.get_or_insert(error);
        }
    }
    service.stats.pods.remove(&pod.id);
    // Also after a failure: a container that cannot be stopped ends with its pod's monitor.
    service.pods.stop(&pod.id).await?;
    if let Some(error) = failure {
        tracing::warn!(pod = %pod.id, %error, "a container could not be stopped before its pod");
    }
    Ok(())
}
