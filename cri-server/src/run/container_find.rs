//! Finds existing containers, which an earlier server started.

use std::collections::BTreeMap;

use crisp_proto::runtime::v1::runtime_service_server::RuntimeService as _;
use crisp_proto::runtime::v1::{Container as Listed, ContainerFilter, ListContainersRequest};
use tonic::Request;

use super::context::Context;
use crate::rpc_error::refused;

/// The newest container with that name in the pod.
///
/// # Errors
/// The runtime's error.
pub async fn newest(context: &Context, name: &str) -> anyhow::Result<Option<Listed>> {
    let filter = ContainerFilter {
        pod_sandbox_id: context.id.clone(),
        label_selector: BTreeMap::from([("io.kubernetes.container.name".to_owned(), name.to_owned())]),
        ..ContainerFilter::default()
    };
    let request = ListContainersRequest { filter: Some(filter) };
    let listed = context.server.runtime.list_containers(Request::new(request)).await.map_err(refused)?;
    Ok(listed.into_inner().containers.into_iter().max_by_key(attempt))
}

/// The number of earlier starts.
pub fn attempt(container: &Listed) -> u32 {
    container.metadata.as_ref().map_or(0, |metadata| metadata.attempt)
}
