//! CheckpointContainer: not built yet.

use crisp_proto::runtime::v1::{CheckpointContainerRequest, CheckpointContainerResponse};

use super::{Core, Reply};
use crate::error::RuntimeError;

pub(super) async fn call(_core: &Core, _request: CheckpointContainerRequest) -> Reply<CheckpointContainerResponse> {
    Err(RuntimeError::Unsupported { what: "CheckpointContainer", hint: "" })
}
