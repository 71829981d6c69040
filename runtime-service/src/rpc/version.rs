//! Version.

use crisp_proto::runtime::v1::{VersionRequest, VersionResponse};

use super::Reply;

pub(super) fn call(_request: VersionRequest) -> Reply<VersionResponse> {
    Ok(VersionResponse {
        // Of the kubelet's side of the contract; it has been this since the contract exists.
        version: "0.1.0".to_owned(),
        runtime_name: "crisp".to_owned(),
        runtime_version: env!("CARGO_PKG_VERSION").to_owned(),
        runtime_api_version: "v1".to_owned(),
    })
}
