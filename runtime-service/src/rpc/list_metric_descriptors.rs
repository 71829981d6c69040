//! ListMetricDescriptors: not built yet.

use crisp_proto::runtime::v1::{ListMetricDescriptorsRequest, ListMetricDescriptorsResponse};

use super::{ServiceState, Reply};
use crate::error::RuntimeError;

pub(super) async fn call(_core: &ServiceState, _request: ListMetricDescriptorsRequest) -> Reply<ListMetricDescriptorsResponse> {
    Err(RuntimeError::Unsupported { what: "ListMetricDescriptors", hint: " yet; ListContainerStats and ListPodSandboxStats are" })
}
