//! CreateContainer.

use std::sync::Arc;

use crisp_proto::runtime::v1::{CreateContainerRequest, CreateContainerResponse};

use super::{Reply, ServiceState};
use crate::convert::{self, ConvertError};
use crate::ops;

pub(super) async fn call(
    service: &Arc<ServiceState>,
    request: CreateContainerRequest,
) -> Reply<CreateContainerResponse> {
    // sandbox_config repeats the configuration that the pod was made with; the pod has its own copy.
    let config = request.config.ok_or_else(|| -> ConvertError { convert::invalid("config", "missing") })?;
    let config = convert::container::config(config)?;
    let id = ops::container_create::create(service, &request.pod_sandbox_id, config).await?;
    Ok(CreateContainerResponse { container_id: id.to_string() })
}
