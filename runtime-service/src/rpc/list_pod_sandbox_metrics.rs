//! ListPodSandboxMetrics: not built yet.

use crisp_proto::runtime::v1::{ListPodSandboxMetricsRequest, ListPodSandboxMetricsResponse};

use super::{ServiceState, Reply};
use crate::error::RuntimeError;

pub(super) async fn call(_core: &ServiceState, _request: ListPodSandboxMetricsRequest) -> Reply<ListPodSandboxMetricsResponse> {
    Err(RuntimeError::Unsupported { what: "ListPodSandboxMetrics", hint: " yet; ListContainerStats and ListPodSandboxStats are" })
}
