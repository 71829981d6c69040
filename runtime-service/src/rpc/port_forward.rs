//! PortForward: not built yet.

use crisp_proto::runtime::v1::{PortForwardRequest, PortForwardResponse};

use super::{Core, Reply};
use crate::error::RuntimeError;

pub(super) async fn call(_core: &Core, _request: PortForwardRequest) -> Reply<PortForwardResponse> {
    Err(RuntimeError::Unsupported { what: "PortForward", hint: " yet; use a host port or the pod's address" })
}
