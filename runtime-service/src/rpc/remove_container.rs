//! RemoveContainer. An unknown container is removed already.

use std::sync::Arc;

use crisp_proto::runtime::v1::{RemoveContainerRequest, RemoveContainerResponse};

use super::{Core, Reply};
use crate::container::table::LookupError;
use crate::ops;

pub(super) async fn call(core: &Arc<Core>, request: RemoveContainerRequest) -> Reply<RemoveContainerResponse> {
    match core.containers.find(&request.container_id) {
        Ok(container) => ops::remove::remove(core, container).await?,
        Err(LookupError::Unknown(_)) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(RemoveContainerResponse {})
}
