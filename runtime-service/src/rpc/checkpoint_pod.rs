//! CheckpointPod: not built yet.

use crisp_proto::runtime::v1::{CheckpointPodRequest, CheckpointPodResponse};

use super::{Core, Reply};
use crate::error::RuntimeError;

pub(super) async fn call(_core: &Core, _request: CheckpointPodRequest) -> Reply<CheckpointPodResponse> {
    Err(RuntimeError::Unsupported { what: "CheckpointPod", hint: "" })
}
