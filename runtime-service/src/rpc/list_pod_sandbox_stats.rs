//! ListPodSandboxStats: of the pods that are ready.

use std::sync::Arc;

use crisp_proto::runtime::v1::{ListPodSandboxStatsRequest, ListPodSandboxStatsResponse, PodSandboxStats};
use crisp_sandbox::PodState;

use super::{Core, Reply};
use crate::convert::figures;
use crate::filter::Filter;
use crate::stats;

pub(super) async fn call(
    core: &Arc<Core>,
    request: ListPodSandboxStatsRequest,
) -> Reply<ListPodSandboxStatsResponse> {
    Ok(ListPodSandboxStatsResponse { stats: all(core, &Filter::from(request.filter)).await })
}

/// Readings of every ready pod that `filter` lets through.
pub(super) async fn all(core: &Arc<Core>, filter: &Filter) -> Vec<PodSandboxStats> {
    let mountpoint = core.writable_mountpoint();
    let mut ready = filter.pods(core);
    ready.retain(|pod| pod.status().state == PodState::Ready);
    stats::pods(core, ready).await.iter().map(|reading| figures::pod(reading, &mountpoint)).collect()
}
