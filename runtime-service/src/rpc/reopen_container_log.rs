//! ReopenContainerLog.

use std::sync::Arc;

use crisp_proto::runtime::v1::{ReopenContainerLogRequest, ReopenContainerLogResponse};

use super::{Reply, ServiceState};
use crate::ops;

pub(super) async fn call(
    service: &Arc<ServiceState>,
    request: ReopenContainerLogRequest,
) -> Reply<ReopenContainerLogResponse> {
    let container = service.container(&request.container_id)?;
    ops::log_reopen::reopen(service, &container).await?;
    Ok(ReopenContainerLogResponse {})
}
