//! RemovePodSandbox: with all its containers. An unknown pod is removed already.

use std::sync::Arc;

use crisp_proto::runtime::v1::{RemovePodSandboxRequest, RemovePodSandboxResponse};
use crisp_sandbox::FindError;

use super::{Core, Reply, stop_pod_sandbox};
use crate::events::Kind;
use crate::ops;

pub(super) async fn call(
    core: &Arc<Core>,
    request: RemovePodSandboxRequest,
) -> Reply<RemovePodSandboxResponse> {
    let pod = match core.pods.find(&request.pod_sandbox_id) {
        Ok(pod) => pod,
        Err(FindError::None { .. }) => return Ok(RemovePodSandboxResponse {}),
        Err(error) => return Err(error.into()),
    };
    stop_pod_sandbox::stop(core, &pod).await?;
    for container in core.containers.of_pod(&pod.id) {
        ops::remove::remove(core, container).await?;
    }
    core.pods.remove(&pod.id).await?;
    core.events.tell(Kind::Deleted, pod.id.as_str(), &pod.id);
    Ok(RemovePodSandboxResponse {})
}
