//! StreamPodSandboxMetrics: not built yet.

use crisp_proto::runtime::v1::{StreamPodSandboxMetricsRequest, StreamPodSandboxMetricsResponse};

use super::{ServiceState, Parts, Reply};
use crate::error::RuntimeError;

pub(super) async fn call(
    _core: &ServiceState,
    _request: StreamPodSandboxMetricsRequest,
) -> Reply<Parts<StreamPodSandboxMetricsResponse>> {
    Err(RuntimeError::Unsupported {
        what: "StreamPodSandboxMetrics",
        hint: " yet; ListContainerStats and ListPodSandboxStats are",
    })
}
