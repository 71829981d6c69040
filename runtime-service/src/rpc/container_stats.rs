//! ContainerStats.

use std::sync::Arc;

use crisp_proto::runtime::v1::{ContainerStatsRequest, ContainerStatsResponse};

use super::{Core, Reply};
use crate::convert::figures;
use crate::stats;

pub(super) async fn call(core: &Arc<Core>, request: ContainerStatsRequest) -> Reply<ContainerStatsResponse> {
    let container = core.container(&request.container_id)?;
    let reading = stats::container(core, &container).await;
    Ok(ContainerStatsResponse { stats: Some(figures::container(&reading, &core.writable_mountpoint())) })
}
