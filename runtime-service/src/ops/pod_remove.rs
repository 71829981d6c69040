//! RemovePodSandbox: stops the pod, removes its containers, then the pod itself.

use std::sync::Arc;

use crisp_sandbox::Pod;

use super::{container_remove, pod_stop};
use crate::error::RuntimeError;
use crate::service_state::ServiceState;

/// Removes the pod, or joins its removal under way. The work continues if the caller leaves.
///
/// # Errors
/// Stages failed; the pod is still listed and can be removed again.
pub async fn remove(service: &Arc<ServiceState>, pod: Arc<Pod>) -> Result<(), RuntimeError> {
    let (owned, id) = (service.clone(), pod.id.clone());
    let removed = service.pod_removes.run(id, move || async move { remove_once(&owned, pod).await });
    Ok(removed.await?)
}

async fn remove_once(service: &Arc<ServiceState>, pod: Arc<Pod>) -> Result<(), RuntimeError> {
    let id = pod.id.clone();
    pod_stop::stop(service, pod).await?;
    for container in service.containers.of_pod(&id) {
        container_remove::remove(service, container).await?;
    }
    Ok(service.pods.remove(&id).await?)
}
