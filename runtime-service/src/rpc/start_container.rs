//! StartContainer.

use std::sync::Arc;

use crisp_proto::runtime::v1::{StartContainerRequest, StartContainerResponse};

use super::{Reply, ServiceState};
use crate::ops;

pub(super) async fn call(
    service: &Arc<ServiceState>,
    request: StartContainerRequest,
) -> Reply<StartContainerResponse> {
    let container = service.container(&request.container_id)?;
    ops::container_start::start(service, container).await?;
    Ok(StartContainerResponse {})
}
