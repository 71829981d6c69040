//! UpdatePodSandboxResources: not built yet.

use crisp_proto::runtime::v1::{UpdatePodSandboxResourcesRequest, UpdatePodSandboxResourcesResponse};

use super::{ServiceState, Reply};
use crate::error::RuntimeError;

pub(super) async fn call(_core: &ServiceState, _request: UpdatePodSandboxResourcesRequest) -> Reply<UpdatePodSandboxResourcesResponse> {
    Err(RuntimeError::Unsupported { what: "UpdatePodSandboxResources", hint: " yet; the limits of its containers can be changed" })
}
