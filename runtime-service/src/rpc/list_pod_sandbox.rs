//! ListPodSandbox, from memory.

use crisp_proto::runtime::v1::{ListPodSandboxRequest, ListPodSandboxResponse};

use super::{Core, Reply};
use crate::convert::answer;
use crate::filter::Filter;

pub(super) async fn call(core: &Core, request: ListPodSandboxRequest) -> Reply<ListPodSandboxResponse> {
    let items = Filter::from(request.filter).pods(core).iter().map(|pod| answer::pod(pod)).collect();
    Ok(ListPodSandboxResponse { items })
}
