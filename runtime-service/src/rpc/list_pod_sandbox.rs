//! ListPodSandbox, from memory.

use crisp_proto::runtime::v1::{ListPodSandboxRequest, ListPodSandboxResponse};

use super::{ServiceState, Reply};
use crate::convert::answer;
use crate::filter::Filter;

pub(super) async fn call(service: &ServiceState, request: ListPodSandboxRequest) -> Reply<ListPodSandboxResponse> {
    let items = Filter::from(request.filter).pods(service).iter().map(|pod| answer::pod(pod)).collect();
    Ok(ListPodSandboxResponse { items })
}
