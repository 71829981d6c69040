//! ListContainerStats.

use std::sync::Arc;

use crisp_proto::runtime::v1::{ContainerStats, ListContainerStatsRequest, ListContainerStatsResponse};

use super::{Core, Reply};
use crate::convert::figures;
use crate::filter::Filter;
use crate::stats;

pub(super) async fn call(
    core: &Arc<Core>,
    request: ListContainerStatsRequest,
) -> Reply<ListContainerStatsResponse> {
    Ok(ListContainerStatsResponse { stats: all(core, &Filter::from(request.filter)).await })
}

/// Readings of every container that `filter` lets through.
pub(super) async fn all(core: &Arc<Core>, filter: &Filter) -> Vec<ContainerStats> {
    let mountpoint = core.writable_mountpoint();
    let readings = stats::containers(core, filter.containers(core)).await;
    readings.iter().map(|reading| figures::container(reading, &mountpoint)).collect()
}
