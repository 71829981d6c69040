//! ContainerStats.

use std::sync::Arc;

use crisp_proto::runtime::v1::{ContainerStatsRequest, ContainerStatsResponse};

use super::{Reply, ServiceState};
use crate::convert;
use crate::stats;

pub(super) async fn call(
    service: &Arc<ServiceState>,
    request: ContainerStatsRequest,
) -> Reply<ContainerStatsResponse> {
    let container = service.container(&request.container_id)?;
    let readings = stats::containers(service, vec![container]).await;
    let mountpoint = service.writable_mountpoint();
    Ok(ContainerStatsResponse {
        stats: readings.first().map(|reading| convert::stats::container(reading, &mountpoint)),
    })
}
