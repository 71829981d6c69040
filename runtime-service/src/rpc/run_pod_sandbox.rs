//! RunPodSandbox.

use crisp_proto::runtime::v1::{RunPodSandboxRequest, RunPodSandboxResponse};

use super::{Reply, ServiceState};
use crate::convert;

pub(super) async fn call(
    service: &ServiceState,
    request: RunPodSandboxRequest,
) -> Reply<RunPodSandboxResponse> {
    let config = convert::pod::request(request, service.pods.cgroup_driver())?;
    let id = service.pods.run(config).await?;
    Ok(RunPodSandboxResponse { pod_sandbox_id: id.to_string() })
}
