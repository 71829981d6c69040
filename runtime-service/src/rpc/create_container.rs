//! CreateContainer.

use std::sync::Arc;

use crisp_proto::runtime::v1::{ContainerConfig, CreateContainerRequest, CreateContainerResponse};

use super::{Reply, ServiceState};
use crate::convert::{self, ConvertError};
use crate::error::RuntimeError;
use crate::journal::{Entry, Kind};
use crate::notes::Requested;
use crate::ops;

pub(super) async fn call(
    service: &Arc<ServiceState>,
    request: CreateContainerRequest,
) -> Reply<CreateContainerResponse> {
    // sandbox_config repeats the configuration that the pod was made with; the pod has its own copy.
    let config = request.config.ok_or_else(|| -> ConvertError { convert::invalid("config", "missing") })?;
    let requested = requested(&config, request.pod_sandbox_id.clone());
    match create(service, &request.pod_sandbox_id, config).await {
        Ok(container_id) => Ok(CreateContainerResponse { container_id }),
        Err(error) => {
            service.note_refusal(requested, &error);
            Err(error)
        }
    }
}

async fn create(
    service: &Arc<ServiceState>,
    pod: &str,
    config: ContainerConfig,
) -> Result<String, RuntimeError> {
    let config = convert::container::config(config)?;
    Ok(ops::container_create::create(service, pod, config).await?.to_string())
}

fn requested(config: &ContainerConfig, pod_id: String) -> Requested<'static> {
    let metadata = config.metadata.clone().unwrap_or_default();
    let image = config.image.as_ref().map_or("", |image| match image.user_specified_image.as_str() {
        "" => image.image.as_str(),
        specified => specified,
    });
    let entry = Entry {
        kind: Kind::Container,
        name: metadata.name.into(),
        attempt: metadata.attempt,
        image: image.to_owned().into(),
        pod_id: pod_id.into(),
        ..Entry::default()
    };
    Requested { operation: "create_container", entry }
}
