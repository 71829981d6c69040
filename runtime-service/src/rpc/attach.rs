//! Attach: not built yet.

use crisp_proto::runtime::v1::{AttachRequest, AttachResponse};

use super::{ServiceState, Reply};
use crate::error::RuntimeError;

pub(super) async fn call(_core: &ServiceState, _request: AttachRequest) -> Reply<AttachResponse> {
    Err(RuntimeError::Unsupported { what: "Attach", hint: " yet; read the container's log instead" })
}
