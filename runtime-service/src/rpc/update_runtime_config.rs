//! UpdateRuntimeConfig: kubelet tells the node's pod CIDR.

use crisp_proto::runtime::v1::{UpdateRuntimeConfigRequest, UpdateRuntimeConfigResponse};

use super::{Core, Reply};
use crate::convert;

pub(super) async fn call(
    core: &Core,
    request: UpdateRuntimeConfigRequest,
) -> Reply<UpdateRuntimeConfigResponse> {
    let told = request.runtime_config.and_then(|c| c.network_config).map(|n| n.pod_cidr).unwrap_or_default();
    // With CNI the plugins' own configuration decides, and whoever wrote it knows the node's CIDR.
    if let Some(ours) = core.config.pod_cidr.as_deref().filter(|ours| !told.is_empty() && *ours != told) {
        let problem = format!("{told} is not the built-in network's {ours}: set pod_cidr and start the server anew");
        return Err(convert::invalid("runtime_config.network_config.pod_cidr", problem).into());
    }
    Ok(UpdateRuntimeConfigResponse {})
}
