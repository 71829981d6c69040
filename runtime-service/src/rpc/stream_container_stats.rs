//! StreamContainerStats: the result of ListContainerStats in several messages, for lists that are too long for one.

use std::sync::Arc;

use crisp_proto::runtime::v1::{StreamContainerStatsRequest, StreamContainerStatsResponse};

use super::messages::{MessageStream, in_messages};
use super::{Reply, ServiceState, list_container_stats};
use crate::filter::Filter;

pub(super) async fn call(
    service: &Arc<ServiceState>,
    request: StreamContainerStatsRequest,
) -> Reply<MessageStream<StreamContainerStatsResponse>> {
    let all = list_container_stats::all(service, &Filter::from(request.filter)).await;
    Ok(in_messages(all, |container_stats| StreamContainerStatsResponse { container_stats }))
}
