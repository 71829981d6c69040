//! UpdateRuntimeConfig: kubelet sends the node's pod CIDR.

use crisp_proto::runtime::v1::{UpdateRuntimeConfigRequest, UpdateRuntimeConfigResponse};

use super::{Reply, ServiceState};

pub(super) async fn call(
    service: &ServiceState,
    request: UpdateRuntimeConfigRequest,
) -> Reply<UpdateRuntimeConfigResponse> {
    let pod_cidr =
        request.runtime_config.and_then(|c| c.network_config).map(|n| n.pod_cidr).unwrap_or_default();
    // Empty on a node that has none yet.
    if !pod_cidr.is_empty() {
        service.pods.networks().update_pod_cidr(&pod_cidr).await?;
    }
    Ok(UpdateRuntimeConfigResponse {})
}
