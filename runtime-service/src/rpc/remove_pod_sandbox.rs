//! RemovePodSandbox: also removes the pod's containers. Succeeds for an unknown pod, as the contract requires.

use std::sync::Arc;

use crisp_proto::runtime::v1::{RemovePodSandboxRequest, RemovePodSandboxResponse};
use crisp_sandbox::FindError;

use super::{Reply, ServiceState};
use crate::ops;

pub(super) async fn call(
    service: &Arc<ServiceState>,
    request: RemovePodSandboxRequest,
) -> Reply<RemovePodSandboxResponse> {
    match service.pods.find(&request.pod_sandbox_id) {
        Ok(pod) => ops::pod_remove::remove(service, pod).await?,
        Err(FindError::None { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(RemovePodSandboxResponse {})
}
