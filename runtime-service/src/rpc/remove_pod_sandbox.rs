//! RemovePodSandbox: removes the pod with all its containers. Succeeds for an unknown pod, as the
//! contract requires.

use std::sync::Arc;

use crisp_proto::runtime::v1::{RemovePodSandboxRequest, RemovePodSandboxResponse};
use crisp_sandbox::FindError;

use super::{Reply, ServiceState, stop_pod_sandbox};
use crate::events::Kind;
use crate::ops;

pub(super) async fn call(
    service: &Arc<ServiceState>,
    request: RemovePodSandboxRequest,
) -> Reply<RemovePodSandboxResponse> {
    let pod = match service.pods.find(&request.pod_sandbox_id) {
        Ok(pod) => pod,
        Err(FindError::None { .. }) => return Ok(RemovePodSandboxResponse {}),
        Err(error) => return Err(error.into()),
    };
    stop_pod_sandbox::stop(service, &pod).await?;
    for container in service.containers.of_pod(&pod.id) {
        ops::container_remove::remove(service, container).await?;
    }
    service.pods.remove(&pod.id).await?;
    service.events.emit(Kind::Deleted, pod.id.as_str(), &pod.id);
    Ok(RemovePodSandboxResponse {})
}
