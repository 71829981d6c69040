//! ListPodSandbox, from memory.

use crisp_proto::runtime::v1::{ListPodSandboxRequest, ListPodSandboxResponse};

use super::{Reply, ServiceState};
use crate::convert::response;
use crate::filter::Filter;

pub(super) fn call(service: &ServiceState, request: ListPodSandboxRequest) -> Reply<ListPodSandboxResponse> {
    let items = Filter::from(request.filter).pods(service).iter().map(|pod| response::pod(pod)).collect();
    Ok(ListPodSandboxResponse { items })
}
