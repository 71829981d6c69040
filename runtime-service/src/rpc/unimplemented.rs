//! The RPCs that are not built yet. Each fails with UNIMPLEMENTED and names an alternative, if there is one.

use crisp_proto::runtime::v1::*;

use super::Reply;
use crate::error::RuntimeError;

fn unsupported<T>(what: &'static str, hint: &'static str) -> Reply<T> {
    Err(RuntimeError::Unsupported { what, hint })
}

pub(super) fn checkpoint_container() -> Reply<CheckpointContainerResponse> {
    unsupported("CheckpointContainer", "")
}

pub(super) fn checkpoint_pod() -> Reply<CheckpointPodResponse> {
    unsupported("CheckpointPod", "")
}

pub(super) fn restore_pod() -> Reply<RestorePodResponse> {
    unsupported("RestorePod", "")
}
