//! CheckpointPod: not built yet.

use crisp_proto::runtime::v1::{CheckpointPodRequest, CheckpointPodResponse};

use super::{ServiceState, Reply};
use crate::error::RuntimeError;

pub(super) async fn call(_core: &ServiceState, _request: CheckpointPodRequest) -> Reply<CheckpointPodResponse> {
    Err(RuntimeError::Unsupported { what: "CheckpointPod", hint: "" })
}
