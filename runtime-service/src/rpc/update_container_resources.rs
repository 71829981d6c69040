//! UpdateContainerResources. Its annotations are for runtimes that run virtual machines, and ignored here.

use std::sync::Arc;

use crisp_proto::runtime::v1::{UpdateContainerResourcesRequest, UpdateContainerResourcesResponse};

use super::{Reply, ServiceState};
use crate::convert;
use crate::ops;

pub(super) async fn call(
    service: &Arc<ServiceState>,
    request: UpdateContainerResourcesRequest,
) -> Reply<UpdateContainerResourcesResponse> {
    if request.windows.is_some() {
        return Err(convert::unsupported("windows", " on Linux").into());
    }
    let container = service.container(&request.container_id)?;
    if let Some(linux) = request.linux {
        let resources = convert::resources::resources("linux", linux)?;
        ops::container_update::update(service, container, resources).await?;
    }
    Ok(UpdateContainerResourcesResponse {})
}
