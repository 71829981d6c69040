//! UpdateRuntimeConfig: kubelet tells the node's pod CIDR.

use crisp_proto::runtime::v1::{UpdateRuntimeConfigRequest, UpdateRuntimeConfigResponse};

use super::Reply;

/// The network's own configuration decides: the plugins' files with CNI, the settings with the
/// built-in one. Whoever wrote them knows the node's CIDR; a refusal would only keep kubelet from
/// going on.
pub(super) fn call(request: UpdateRuntimeConfigRequest) -> Reply<UpdateRuntimeConfigResponse> {
    let told = request.runtime_config.and_then(|c| c.network_config).map(|n| n.pod_cidr).unwrap_or_default();
    if !told.is_empty() {
        tracing::info!(
            pod_cidr = told,
            "told of the node's pod CIDR; the network's own settings stay in force"
        );
    }
    Ok(UpdateRuntimeConfigResponse {})
}
