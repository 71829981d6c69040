//! Finds existing containers, which an earlier server started.

use std::collections::BTreeMap;

use crisp_proto::runtime::v1::runtime_service_server::RuntimeService as _;
use crisp_proto::runtime::v1::{Container as Listed, ContainerFilter, ListContainersRequest};
use tonic::Request;

use crate::rpc_error::refused;
use crate::server::Server;

/// The newest container with that name in the pod with that id.
///
/// # Errors
/// The runtime's error.
pub async fn newest(server: &Server, pod: &str, name: &str) -> anyhow::Result<Option<Listed>> {
    let filter = ContainerFilter {
        pod_sandbox_id: pod.to_owned(),
        label_selector: BTreeMap::from([("io.kubernetes.container.name".to_owned(), name.to_owned())]),
        ..ContainerFilter::default()
    };
    let request = ListContainersRequest { filter: Some(filter) };
    let listed = server.runtime.list_containers(Request::new(request)).await.map_err(refused)?;
    Ok(listed.into_inner().containers.into_iter().max_by_key(attempt))
}

/// The number of earlier starts.
pub fn attempt(container: &Listed) -> u32 {
    container.metadata.as_ref().map_or(0, |metadata| metadata.attempt)
}
