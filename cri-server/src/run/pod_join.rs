//! A pod in the network of another one, by the annotation `crisp/network-of`.

use crisp_proto::runtime::v1::runtime_service_server::RuntimeService as _;
use crisp_proto::runtime::v1::{ListContainersRequest, NamespaceMode, PodSandboxConfig};
use crisp_sandbox::PodState;
use tonic::{Request, Status};

use super::manifest::{NETWORK_OF, Pod};
use crate::server::Server;

/// The request with the pod that it joins, which must run. That pod gives the host name too, unless the manifest
/// has one.
///
/// # Errors
/// There is no such pod, or several.
pub async fn joining(
    server: &Server,
    pod: &Pod,
    mut sandbox: PodSandboxConfig,
) -> Result<PodSandboxConfig, Status> {
    let Some(name) = pod.annotations.get(NETWORK_OF) else { return Ok(sandbox) };
    let id = find(server, name).await?;
    if pod.hostname.is_none() {
        sandbox.hostname.clear();
    }
    let linux = sandbox.linux.get_or_insert_default();
    let options = linux.security_context.get_or_insert_default().namespace_options.get_or_insert_default();
    options.set_network(NamespaceMode::Target);
    options.target_id = id;
    Ok(sandbox)
}

/// The id of the running pod that has this name, or a container with it: as `NAME`, `NAMESPACE/NAME` or
/// `POD/CONTAINER`, or an id.
async fn find(server: &Server, name: &str) -> Result<String, Status> {
    let running: Vec<_> =
        server.pods.list().into_iter().filter(|pod| pod.status().state == PodState::Ready).collect();
    let containers = server.runtime.list_containers(Request::new(ListContainersRequest::default())).await?;
    let containers = containers.into_inner().containers;
    let has_container = |pod: &crisp_sandbox::Pod| {
        let mut of_pod = containers.iter().filter(|container| container.pod_sandbox_id == pod.id.as_str());
        of_pod.any(|container| {
            let own = container.metadata.as_ref().map_or("", |metadata| &metadata.name);
            own == name || container.id == name || format!("{}/{own}", pod.config.name) == name
        })
    };
    let is_meant = |pod: &crisp_sandbox::Pod| {
        let config = &pod.config;
        config.name == name
            || pod.id.as_str() == name
            || format!("{}/{}", config.namespace, config.name) == name
    };
    let by_name: Vec<_> = running.iter().filter(|pod| is_meant(pod)).collect();
    let found = match by_name.is_empty() {
        true => running.iter().filter(|pod| has_container(pod)).collect(),
        false => by_name,
    };
    match found[..] {
        [pod] => Ok(pod.id.to_string()),
        [] => Err(Status::failed_precondition(format!(
            "{NETWORK_OF}: no running pod or container is called {name:?}: start it first"
        ))),
        _ => Err(Status::failed_precondition(format!(
            "{NETWORK_OF}: {} running pods have the name {name:?}, or a container with it: use NAMESPACE/NAME",
            found.len()
        ))),
    }
}
