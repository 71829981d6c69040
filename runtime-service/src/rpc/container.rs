//! RPCs about one container, and lists of containers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crisp_proto::runtime::v1::{
    ContainerConfig, ContainerStatusRequest, ContainerStatusResponse, CreateContainerRequest,
    CreateContainerResponse, ListContainersRequest, ListContainersResponse, RemoveContainerRequest,
    RemoveContainerResponse, ReopenContainerLogRequest, ReopenContainerLogResponse, StartContainerRequest,
    StartContainerResponse, StopContainerRequest, StopContainerResponse, StreamContainersRequest,
    StreamContainersResponse, UpdateContainerResourcesRequest, UpdateContainerResourcesResponse,
};
use serde_json::json;

use super::messages::{MessageStream, in_messages};
use super::{Reply, ServiceState};
use crate::container::Container;
use crate::container::table::LookupError;
use crate::convert::{self, ConvertError, response};
use crate::error::RuntimeError;
use crate::filter::Filter;
use crate::journal::{Action, Entry, Kind};
use crate::notes::Requested;
use crate::ops::{self, container_spec};

/// CreateContainer.
pub(super) async fn create_container(
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

/// StartContainer.
pub(super) async fn start_container(
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

/// StopContainer. Succeeds for an unknown container, as the contract requires.
pub(super) async fn stop_container(
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

/// RemoveContainer. Succeeds for an unknown container, as the contract requires.
pub(super) async fn remove_container(
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

/// ContainerStatus, from memory; `verbose` also builds the spec.
pub(super) async fn container_status(
    service: &Arc<ServiceState>,
    request: ContainerStatusRequest,
) -> Reply<ContainerStatusResponse> {
    let container = service.container(&request.container_id)?;
    let info = if request.verbose { info(service, &container).await } else { BTreeMap::new() };
    Ok(ContainerStatusResponse {
        status: Some(response::container_status(&container, &container.status())),
        info,
    })
}

/// The details that crictl inspect shows, under the names that its users expect.
async fn info(service: &Arc<ServiceState>, container: &Arc<Container>) -> BTreeMap<String, String> {
    let (owned, of) = (service.clone(), container.clone());
    let spec = tokio::task::spawn_blocking(move || {
        let pod = owned.pod_of(&of)?;
        let spec = container_spec::build(&owned, &of.metadata, &of.status().resources, &pod).ok()?;
        serde_json::to_value(spec).ok()
    });
    // Null when the pod, or a container whose PID namespace it joins, is gone.
    let spec = spec.await.ok().flatten();
    let info = json!({
        "sandboxID": container.metadata.pod,
        "pid": container.status().state.pid().unwrap_or_default(),
        "bundle": container.folder.bundle(),
        "upper": container.folder.upper(),
        "layers": container.metadata.image.diff_ids,
        "config": container.metadata.config,
        "runtimeSpec": spec,
    });
    [("info".to_owned(), info.to_string())].into()
}

/// ListContainers, from memory.
pub(super) fn list_containers(
    service: &ServiceState,
    request: ListContainersRequest,
) -> Reply<ListContainersResponse> {
    let containers = Filter::from(request.filter).containers(service);
    Ok(ListContainersResponse { containers: containers.iter().map(|c| response::container(c)).collect() })
}

/// StreamContainers: the result of ListContainers in several messages, for long lists.
pub(super) fn stream_containers(
    service: &ServiceState,
    request: StreamContainersRequest,
) -> Reply<MessageStream<StreamContainersResponse>> {
    let containers = Filter::from(request.filter).containers(service);
    let containers = containers.iter().map(|c| response::container(c)).collect();
    Ok(in_messages(containers, |containers| StreamContainersResponse { containers }))
}

/// UpdateContainerResources. Its annotations are for runtimes that run virtual machines, and ignored here.
pub(super) async fn update_container_resources(
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

/// ReopenContainerLog.
pub(super) async fn reopen_container_log(
    service: &Arc<ServiceState>,
    request: ReopenContainerLogRequest,
) -> Reply<ReopenContainerLogResponse> {
    let container = service.container(&request.container_id)?;
    ops::log_reopen::reopen(service, &container).await?;
    Ok(ReopenContainerLogResponse {})
}
