//! Exec: not built yet.

use crisp_proto::runtime::v1::{ExecRequest, ExecResponse};

use super::{ServiceState, Reply};
use crate::error::RuntimeError;

pub(super) async fn call(_core: &ServiceState, _request: ExecRequest) -> Reply<ExecResponse> {
    Err(RuntimeError::Unsupported { what: "Exec", hint: " yet; ExecSync is" })
}
