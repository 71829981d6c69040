//! StartContainer.

use std::sync::Arc;

use crisp_proto::runtime::v1::{StartContainerRequest, StartContainerResponse};

use super::{Core, Reply};
use crate::ops;

pub(super) async fn call(core: &Arc<Core>, request: StartContainerRequest) -> Reply<StartContainerResponse> {
    let container = core.container(&request.container_id)?;
    ops::start::start(core, container).await?;
    Ok(StartContainerResponse {})
}
