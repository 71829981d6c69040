//! PortForward: not built yet.

use crisp_proto::runtime::v1::{PortForwardRequest, PortForwardResponse};

use super::{ServiceState, Reply};
use crate::error::RuntimeError;

pub(super) async fn call(_core: &ServiceState, _request: PortForwardRequest) -> Reply<PortForwardResponse> {
    Err(RuntimeError::Unsupported { what: "PortForward", hint: " yet; use a host port or the pod's address" })
}
