//! StopPodSandbox. Succeeds for an unknown pod, as the contract requires.

use std::sync::Arc;

use crisp_proto::runtime::v1::{StopPodSandboxRequest, StopPodSandboxResponse};
use crisp_sandbox::FindError;

use super::{Reply, ServiceState};
use crate::ops;

pub(super) async fn call(
    service: &Arc<ServiceState>,
    request: StopPodSandboxRequest,
) -> Reply<StopPodSandboxResponse> {
    match service.pods.find(&request.pod_sandbox_id) {
        Ok(pod) => ops::pod_stop::stop(service, pod).await?,
        Err(FindError::None { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(StopPodSandboxResponse {})
}
