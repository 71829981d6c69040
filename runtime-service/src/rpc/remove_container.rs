//! RemoveContainer. Succeeds for an unknown container, as the contract requires.

use std::sync::Arc;

use crisp_proto::runtime::v1::{RemoveContainerRequest, RemoveContainerResponse};

use super::{Reply, ServiceState};
use crate::container::table::LookupError;
use crate::ops;

pub(super) async fn call(
    service: &Arc<ServiceState>,
    request: RemoveContainerRequest,
) -> Reply<RemoveContainerResponse> {
    match service.containers.find(&request.container_id) {
        Ok(container) => ops::container_remove::remove(service, container).await?,
        Err(LookupError::Unknown(_)) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(RemoveContainerResponse {})
}
