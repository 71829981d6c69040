//! UpdatePodSandboxResources.

use std::sync::Arc;

use crisp_executor::cgroup;
use crisp_sandbox::{Pod, PodResources};

use crate::container::config::Resources;
use crate::error::RuntimeError;
use crate::service_state::ServiceState;
use crate::spec::limits;

/// Records the overhead of the pod and the sum of its containers' resources. None keeps the present value.
///
/// # Errors
/// The pod cannot run anything, or the kernel refuses a limit.
pub async fn update(
    service: &ServiceState,
    pod: &Arc<Pod>,
    overhead: Option<Resources>,
    containers: Option<Resources>,
) -> Result<(), RuntimeError> {
    let newer = PodResources { overhead: cgroup_limits(overhead)?, containers: cgroup_limits(containers)? };
    Ok(service.pods.update(pod, newer).await?)
}

fn cgroup_limits(resources: Option<Resources>) -> Result<Option<cgroup::Resources>, RuntimeError> {
    let convert = |resources: Resources| cgroup::Resources::from_spec(&limits::resources(&resources, vec![]));
    resources.map(convert).transpose().map_err(RuntimeError::from)
}
