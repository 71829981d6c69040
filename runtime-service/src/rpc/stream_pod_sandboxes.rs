//! StreamPodSandboxes: the same list in parts, for those too long for one message.

use crisp_proto::runtime::v1::{StreamPodSandboxesRequest, StreamPodSandboxesResponse};

use super::{ServiceState, Parts, Reply, in_parts};
use crate::convert::answer;
use crate::filter::Filter;

pub(super) async fn call(
    service: &ServiceState,
    request: StreamPodSandboxesRequest,
) -> Reply<Parts<StreamPodSandboxesResponse>> {
    let pods = Filter::from(request.filter).pods(service).iter().map(|pod| answer::pod(pod)).collect();
    Ok(in_parts(pods, |pod_sandboxes| StreamPodSandboxesResponse { pod_sandboxes }))
}
