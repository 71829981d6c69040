//! RunPodSandbox.

use crisp_proto::runtime::v1::{RunPodSandboxRequest, RunPodSandboxResponse};

use super::{Reply, ServiceState};
use crate::convert;
use crate::error::RuntimeError;

pub(super) async fn call(
    service: &ServiceState,
    request: RunPodSandboxRequest,
) -> Reply<RunPodSandboxResponse> {
    let config = convert::pod::request(request, service.pods.cgroup_driver())?;
    if config.user.is_some() {
        require_user_namespaces(service).await?;
    }
    let id = service.pods.run(config).await?;
    Ok(RunPodSandboxResponse { pod_sandbox_id: id.to_string() })
}

/// Its pods would come up, and each of their containers would fail at its start.
async fn require_user_namespaces(service: &ServiceState) -> Result<(), RuntimeError> {
    let layers = [service.layout.containers(), service.layout.discarded()];
    let condition = service.health.user_namespaces(layers).await;
    if condition.ready { Ok(()) } else { Err(RuntimeError::NoUserNamespaces { why: condition.message }) }
}
