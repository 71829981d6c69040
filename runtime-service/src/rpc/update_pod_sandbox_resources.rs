//! UpdatePodSandboxResources: notes the new sums. Kubelet has put them into the pod's cgroup already.

use std::sync::Arc;

use crisp_proto::runtime::v1::{
    LinuxContainerResources, UpdatePodSandboxResourcesRequest, UpdatePodSandboxResourcesResponse,
};

use super::{Reply, ServiceState};
use crate::convert;
use crate::error::RuntimeError;
use crate::ops;

pub(super) async fn call(
    service: &Arc<ServiceState>,
    request: UpdatePodSandboxResourcesRequest,
) -> Reply<UpdatePodSandboxResourcesResponse> {
    let pod = service.pods.find(&request.pod_sandbox_id)?;
    let limits = |field: &str, value: Option<LinuxContainerResources>| {
        let limits = value.map(|value| convert::resources::resources(field, value)).transpose()?;
        Ok::<_, RuntimeError>(limits)
    };
    let overhead = limits("overhead", request.overhead)?;
    let containers = limits("resources", request.resources)?;
    ops::pod_update::update(service, &pod, overhead, containers).await?;
    Ok(UpdatePodSandboxResourcesResponse {})
}
