//! StreamPodSandboxMetrics: the result of ListPodSandboxMetrics in several messages.

use std::sync::Arc;

use crisp_proto::runtime::v1::StreamPodSandboxMetricsResponse;

use super::messages::{MessageStream, in_messages_of};
use super::{Reply, ServiceState, list_pod_sandbox_metrics};

/// A pod has about 100 samples of 300 bytes for each container.
const PODS_PER_MESSAGE: usize = 20;

pub(super) async fn call(
    service: &Arc<ServiceState>,
) -> Reply<MessageStream<StreamPodSandboxMetricsResponse>> {
    let all = list_pod_sandbox_metrics::all(service).await;
    let message = |pod_sandbox_metrics| StreamPodSandboxMetricsResponse { pod_sandbox_metrics };
    Ok(in_messages_of(PODS_PER_MESSAGE, all, message))
}
