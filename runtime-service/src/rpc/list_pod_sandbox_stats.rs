//! ListPodSandboxStats: stats of the pods that are ready.

use std::sync::Arc;

use crisp_proto::runtime::v1::{ListPodSandboxStatsRequest, ListPodSandboxStatsResponse, PodSandboxStats};
use crisp_sandbox::PodState;

use super::{Reply, ServiceState};
use crate::convert;
use crate::filter::Filter;
use crate::stats;

pub(super) async fn call(
    service: &Arc<ServiceState>,
    request: ListPodSandboxStatsRequest,
) -> Reply<ListPodSandboxStatsResponse> {
    Ok(ListPodSandboxStatsResponse { stats: all(service, &Filter::from(request.filter)).await })
}

/// Reads every ready pod that matches `filter`.
pub(super) async fn all(service: &Arc<ServiceState>, filter: &Filter) -> Vec<PodSandboxStats> {
    let mountpoint = service.writable_mountpoint();
    let mut ready = filter.pods(service);
    ready.retain(|pod| pod.status().state == PodState::Ready);
    stats::pods(service, ready)
        .await
        .iter()
        .map(|reading| convert::stats::pod(reading, &mountpoint))
        .collect()
}
