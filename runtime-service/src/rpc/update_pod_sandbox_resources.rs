//! UpdatePodSandboxResources: not built yet.

use crisp_proto::runtime::v1::{UpdatePodSandboxResourcesRequest, UpdatePodSandboxResourcesResponse};

use super::{Core, Reply};
use crate::error::RuntimeError;

pub(super) async fn call(_core: &Core, _request: UpdatePodSandboxResourcesRequest) -> Reply<UpdatePodSandboxResourcesResponse> {
    Err(RuntimeError::Unsupported { what: "UpdatePodSandboxResources", hint: " yet; the limits of its containers can be changed" })
}
