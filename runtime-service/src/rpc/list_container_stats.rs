//! ListContainerStats.

use std::sync::Arc;

use crisp_proto::runtime::v1::{ContainerStats, ListContainerStatsRequest, ListContainerStatsResponse};

use super::{Reply, ServiceState};
use crate::convert;
use crate::filter::Filter;
use crate::stats;

pub(super) async fn call(
    service: &Arc<ServiceState>,
    request: ListContainerStatsRequest,
) -> Reply<ListContainerStatsResponse> {
    Ok(ListContainerStatsResponse { stats: all(service, &Filter::from(request.filter)).await })
}

/// Reads every container that matches `filter`.
pub(super) async fn all(service: &Arc<ServiceState>, filter: &Filter) -> Vec<ContainerStats> {
    let mountpoint = service.writable_mountpoint();
    let readings = stats::containers(service, filter.containers(service)).await;
    readings.iter().map(|reading| convert::stats::container(reading, &mountpoint)).collect()
}
