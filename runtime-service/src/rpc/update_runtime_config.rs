//! UpdateRuntimeConfig: kubelet sends the node's pod CIDR.

use crisp_proto::runtime::v1::{UpdateRuntimeConfigRequest, UpdateRuntimeConfigResponse};

use super::Reply;

/// Accepted but not used: the network's own settings (the CNI plugins' files or those of the built-in
/// network) name the addresses. An error would keep kubelet from going on.
pub(super) fn call(request: UpdateRuntimeConfigRequest) -> Reply<UpdateRuntimeConfigResponse> {
    let pod_cidr =
        request.runtime_config.and_then(|c| c.network_config).map(|n| n.pod_cidr).unwrap_or_default();
    if !pod_cidr.is_empty() {
        tracing::info!(
            pod_cidr,
            "kubelet sent the node's pod CIDR; the network's own settings stay in force"
        );
    }
    Ok(UpdateRuntimeConfigResponse {})
}
