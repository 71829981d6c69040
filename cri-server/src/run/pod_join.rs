//! A pod in the network of another one, by the annotation `crisp/network-of`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crisp_proto::runtime::v1::runtime_service_server::RuntimeService as _;
use crisp_proto::runtime::v1::{
    Container, ContainerFilter, ContainerState, ContainerStateValue, ListContainersRequest, NamespaceMode,
    PodSandboxConfig,
};
use crisp_sandbox::PodState;
use tonic::{Request, Status};

use super::manifest::{NETWORK_OF, Pod};
use super::stop_request::{StopRequest, StopRequests};
use crate::server::Server;

/// Time for the other pod to start: both may be in one manifest, or be started with the server.
const PATIENCE: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(100);

/// The request with the pod that it joins, which must run. That pod gives the host name too, unless the manifest
/// has one.
///
/// # Errors
/// There is no such pod, or several.
pub async fn joining(
    server: &Server,
    pod: &Pod,
    mut sandbox: PodSandboxConfig,
    stop: &StopRequests,
) -> Result<PodSandboxConfig, Status> {
    let Some(name) = pod.annotations.get(NETWORK_OF) else { return Ok(sandbox) };
    let begun = Instant::now();
    let id = loop {
        match find(server, &pod.namespace, name).await? {
            Some(id) => break id,
            None if begun.elapsed() > PATIENCE || stop.now().is_any() => {
                let why =
                    format!("{NETWORK_OF}: no running pod or container is called {name:?}: start it first");
                return Err(Status::failed_precondition(why));
            }
            None => tokio::select! {
                () = tokio::time::sleep(PAUSE) => {}
                _ = stop.wait_for(StopRequest::is_any) => {}
            },
        }
    };
    if pod.hostname.is_none() {
        sandbox.hostname.clear();
    }
    let linux = sandbox.linux.get_or_insert_default();
    let options = linux.security_context.get_or_insert_default().namespace_options.get_or_insert_default();
    options.set_network(NamespaceMode::Target);
    options.target_id = id;
    Ok(sandbox)
}

/// Whether the pod has joined one that is gone, and no container of it runs.
pub async fn is_cut_off(server: &Server, id: &str) -> bool {
    let Ok(pod) = server.pods.find(id) else { return false };
    if server.pods.has_its_network(&pod) {
        return false;
    }
    let filter = ContainerFilter { pod_sandbox_id: id.to_owned(), ..ContainerFilter::default() };
    running(server, filter).await.is_ok_and(|containers| containers.is_empty())
}

async fn running(server: &Server, filter: ContainerFilter) -> Result<Vec<Container>, Status> {
    let state = Some(ContainerStateValue { state: ContainerState::ContainerRunning.into() });
    let request = ListContainersRequest { filter: Some(ContainerFilter { state, ..filter }) };
    Ok(server.runtime.list_containers(Request::new(request)).await?.into_inner().containers)
}

/// The id of the running pod that has this name, or a running container with it: in the own namespace, or
/// `NAMESPACE/NAME`, `POD/CONTAINER`, or a whole id.
async fn find(server: &Server, namespace: &str, name: &str) -> Result<Option<String>, Status> {
    let ready: Vec<Arc<crisp_sandbox::Pod>> =
        server.pods.list().into_iter().filter(|pod| pod.status().state == PodState::Ready).collect();
    let is_meant = |pod: &crisp_sandbox::Pod| {
        let config = &pod.config;
        (config.namespace == namespace && config.name == name)
            || format!("{}/{}", config.namespace, config.name) == name
            || pod.id.as_str() == name
    };
    let mut found: Vec<_> = ready.iter().filter(|pod| is_meant(pod)).collect();
    if found.is_empty() {
        let containers = running(server, ContainerFilter::default()).await?;
        let has_it = |pod: &crisp_sandbox::Pod| {
            let mut own = containers.iter().filter(|container| container.pod_sandbox_id == pod.id.as_str());
            own.any(|container| {
                let short = container.metadata.as_ref().map_or("", |metadata| &metadata.name);
                short == name || container.id == name || format!("{}/{short}", pod.config.name) == name
            })
        };
        found.extend(ready.iter().filter(|pod| pod.config.namespace == namespace && has_it(pod)));
    }
    match found[..] {
        [] => Ok(None),
        [pod] => Ok(Some(pod.id.to_string())),
        _ => Err(Status::failed_precondition(format!(
            "{NETWORK_OF}: {} running pods have the name {name:?}, or a container with it: use NAMESPACE/NAME",
            found.len()
        ))),
    }
}
