//! StreamContainerStats: the same readings in parts.

use std::sync::Arc;

use crisp_proto::runtime::v1::{StreamContainerStatsRequest, StreamContainerStatsResponse};

use super::{ServiceState, Parts, Reply, in_parts, list_container_stats};
use crate::filter::Filter;

pub(super) async fn call(
    service: &Arc<ServiceState>,
    request: StreamContainerStatsRequest,
) -> Reply<Parts<StreamContainerStatsResponse>> {
    let all = list_container_stats::all(service, &Filter::from(request.filter)).await;
    Ok(in_parts(all, |container_stats| StreamContainerStatsResponse { container_stats }))
}
