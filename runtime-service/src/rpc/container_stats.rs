//! ContainerStats.

use std::sync::Arc;

use crisp_proto::runtime::v1::{ContainerStatsRequest, ContainerStatsResponse};

use super::{Core, Reply};
use crate::convert::figures;
use crate::stats;

pub(super) async fn call(core: &Arc<Core>, request: ContainerStatsRequest) -> Reply<ContainerStatsResponse> {
    let container = core.container(&request.container_id)?;
    let readings = stats::containers(core, vec![container]).await;
    let mountpoint = core.writable_mountpoint();
    Ok(ContainerStatsResponse { stats: readings.first().map(|reading| figures::container(reading, &mountpoint)) })
}
