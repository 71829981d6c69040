//! RestorePod: not built yet.

use crisp_proto::runtime::v1::{RestorePodRequest, RestorePodResponse};

use super::{ServiceState, Reply};
use crate::error::RuntimeError;

pub(super) async fn call(_core: &ServiceState, _request: RestorePodRequest) -> Reply<RestorePodResponse> {
    Err(RuntimeError::Unsupported { what: "RestorePod", hint: "" })
}
