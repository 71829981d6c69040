//! StartContainer.

use std::sync::Arc;

use crisp_proto::runtime::v1::{StartContainerRequest, StartContainerResponse};

use super::{Reply, ServiceState};
use crate::journal::{Action, Entry};
use crate::notes::Requested;
use crate::ops;

pub(super) async fn call(
    service: &Arc<ServiceState>,
    request: StartContainerRequest,
) -> Reply<StartContainerResponse> {
    let container = service.container(&request.container_id)?;
    match ops::container_start::start(service, container.clone()).await {
        Ok(()) => Ok(StartContainerResponse {}),
        Err(error) => {
            let entry = Entry::of_container(Action::Fail, &container, None);
            service.note_refusal(Requested { operation: "start_container", entry }, &error);
            Err(error)
        }
    }
}
