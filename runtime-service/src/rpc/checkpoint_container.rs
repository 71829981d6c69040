//! CheckpointContainer: not built yet.

use crisp_proto::runtime::v1::{CheckpointContainerRequest, CheckpointContainerResponse};

use super::{ServiceState, Reply};
use crate::error::RuntimeError;

pub(super) async fn call(_core: &ServiceState, _request: CheckpointContainerRequest) -> Reply<CheckpointContainerResponse> {
    Err(RuntimeError::Unsupported { what: "CheckpointContainer", hint: "" })
}
