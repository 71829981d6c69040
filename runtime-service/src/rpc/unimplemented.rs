//! The RPCs that are not built yet. Each fails with UNIMPLEMENTED and, where there is one, names
//! what to use instead.

use crisp_proto::runtime::v1::*;

use super::Reply;
use super::messages::MessageStream;
use crate::error::RuntimeError;

const USE_STATS: &str = " yet; use ListContainerStats and ListPodSandboxStats instead";

fn unsupported<T>(what: &'static str, hint: &'static str) -> Reply<T> {
    Err(RuntimeError::Unsupported { what, hint })
}

pub(super) fn checkpoint_container() -> Reply<CheckpointContainerResponse> {
    unsupported("CheckpointContainer", "")
}

pub(super) fn checkpoint_pod() -> Reply<CheckpointPodResponse> {
    unsupported("CheckpointPod", "")
}

pub(super) fn restore_pod() -> Reply<RestorePodResponse> {
    unsupported("RestorePod", "")
}

pub(super) fn list_metric_descriptors() -> Reply<ListMetricDescriptorsResponse> {
    unsupported("ListMetricDescriptors", USE_STATS)
}

pub(super) fn list_pod_sandbox_metrics() -> Reply<ListPodSandboxMetricsResponse> {
    unsupported("ListPodSandboxMetrics", USE_STATS)
}

pub(super) fn stream_pod_sandbox_metrics() -> Reply<MessageStream<StreamPodSandboxMetricsResponse>> {
    unsupported("StreamPodSandboxMetrics", USE_STATS)
}
