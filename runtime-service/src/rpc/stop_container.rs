//! StopContainer. Succeeds for an unknown container, as the contract requires.

use std::sync::Arc;
use std::time::Duration;

use crisp_proto::runtime::v1::{StopContainerRequest, StopContainerResponse};

use super::{Reply, ServiceState};
use crate::container::table::LookupError;
use crate::convert::{self, ConvertError};
use crate::ops;

pub(super) async fn call(
    service: &Arc<ServiceState>,
    request: StopContainerRequest,
) -> Reply<StopContainerResponse> {
    let seconds = u64::try_from(request.timeout).map_err(|_| -> ConvertError {
        convert::invalid("timeout", format!("{} is negative", request.timeout))
    })?;
    match service.containers.find(&request.container_id) {
        Ok(container) => ops::container_stop::stop(service, container, Duration::from_secs(seconds)).await?,
        Err(LookupError::Unknown(_)) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(StopContainerResponse {})
}
