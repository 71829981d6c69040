//! UpdatePodSandboxResources.

use std::sync::Arc;

use crisp_executor::cgroup;
use crisp_sandbox::{Pod, PodResources};

use crate::container::config::Resources;
use crate::error::RuntimeError;
use crate::service_state::ServiceState;
use crate::spec::limits;

/// Notes what the pod needs in addition to its containers, and what these may use together. None: as before.
///
/// # Errors
/// A pod in which nothing can run, or the limit that the kernel refuses.
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
