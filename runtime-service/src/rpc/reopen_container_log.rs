//! ReopenContainerLog.

use std::sync::Arc;

use crisp_proto::runtime::v1::{ReopenContainerLogRequest, ReopenContainerLogResponse};

use super::{Core, Reply};
use crate::ops;

pub(super) async fn call(
    core: &Arc<Core>,
    request: ReopenContainerLogRequest,
) -> Reply<ReopenContainerLogResponse> {
    let container = core.container(&request.container_id)?;
    ops::log::reopen(core, &container).await?;
    Ok(ReopenContainerLogResponse {})
}
