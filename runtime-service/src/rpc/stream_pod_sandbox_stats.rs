//! StreamPodSandboxStats: the result of ListPodSandboxStats in several messages, for lists that are too long for one.

use std::sync::Arc;

use crisp_proto::runtime::v1::{StreamPodSandboxStatsRequest, StreamPodSandboxStatsResponse};

use super::messages::{MessageStream, in_messages};
use super::{Reply, ServiceState, list_pod_sandbox_stats};
use crate::filter::Filter;

pub(super) async fn call(
    service: &Arc<ServiceState>,
    request: StreamPodSandboxStatsRequest,
) -> Reply<MessageStream<StreamPodSandboxStatsResponse>> {
    let all = list_pod_sandbox_stats::all(service, &Filter::from(request.filter)).await;
    Ok(in_messages(all, |pod_sandbox_stats| StreamPodSandboxStatsResponse { pod_sandbox_stats }))
}
