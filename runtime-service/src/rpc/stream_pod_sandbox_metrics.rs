//! StreamPodSandboxMetrics: not built yet.

use crisp_proto::runtime::v1::{StreamPodSandboxMetricsRequest, StreamPodSandboxMetricsResponse};

use super::{Core, Parts, Reply};
use crate::error::RuntimeError;

pub(super) async fn call(
    _core: &Core,
    _request: StreamPodSandboxMetricsRequest,
) -> Reply<Parts<StreamPodSandboxMetricsResponse>> {
    Err(RuntimeError::Unsupported {
        what: "StreamPodSandboxMetrics",
        hint: " yet; ListContainerStats and ListPodSandboxStats are",
    })
}
