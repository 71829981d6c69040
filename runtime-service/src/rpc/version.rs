//! Version.

use crisp_proto::runtime::v1::{VersionRequest, VersionResponse};

use super::Reply;

pub(super) fn call(_request: VersionRequest) -> Reply<VersionResponse> {
    Ok(VersionResponse {
        // The version of kubelet's runtime API. Kubelet expects exactly this.
        version: "0.1.0".to_owned(),
        runtime_name: "crisp".to_owned(),
        runtime_version: env!("CARGO_PKG_VERSION").to_owned(),
        runtime_api_version: "v1".to_owned(),
    })
}
