//! The requests that end a pod sandbox.

use crisp_proto::runtime::v1::runtime_service_server::RuntimeService as _;
use crisp_proto::runtime::v1::{RemovePodSandboxRequest, StopPodSandboxRequest};
use tonic::Request;

use crate::rpc_error::refused;
use crate::server::Server;

/// Stops a pod and its containers.
///
/// # Errors
/// The runtime's error.
pub async fn stop(server: &Server, id: &str) -> anyhow::Result<()> {
    let stop = StopPodSandboxRequest { pod_sandbox_id: id.to_owned() };
    server.runtime.stop_pod_sandbox(Request::new(stop)).await.map_err(refused)?;
    Ok(())
}

/// Stops and removes a pod and its containers.
///
/// # Errors
/// The runtime's error.
pub async fn stop_and_remove(server: &Server, id: &str) -> anyhow::Result<()> {
    stop(server, id).await?;
    let remove = RemovePodSandboxRequest { pod_sandbox_id: id.to_owned() };
    server.runtime.remove_pod_sandbox(Request::new(remove)).await.map_err(refused)?;
    Ok(())
}
