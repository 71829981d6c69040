//! StreamPodSandboxes: the result of ListPodSandbox in several messages, for lists that are too long for one.

use crisp_proto::runtime::v1::{StreamPodSandboxesRequest, StreamPodSandboxesResponse};

use super::messages::{MessageStream, in_messages};
use super::{Reply, ServiceState};
use crate::convert::response;
use crate::filter::Filter;

pub(super) fn call(
    service: &ServiceState,
    request: StreamPodSandboxesRequest,
) -> Reply<MessageStream<StreamPodSandboxesResponse>> {
    let pods = Filter::from(request.filter).pods(service).iter().map(|pod| response::pod(pod)).collect();
    Ok(in_messages(pods, |pod_sandboxes| StreamPodSandboxesResponse { pod_sandboxes }))
}
