//! UpdateContainerResources: new limits for a container, running or not yet.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use crisp_executor::cgroup;

use super::container_start::read_spec;
use crate::container::Container;
use crate::container::config::Resources;
use crate::container::state::State;
use crate::error::RuntimeError;
use crate::service_state::{ServiceState, cgroup_path};
use crate::spec::limits;
use crate::stage::{Cause, Failure, Steps};

const OPERATION: &str = "update_container_resources";
const DEADLINE: Duration = Duration::from_secs(15);

/// Applies what `wanted` asks for; what it leaves open stays as it is.
///
/// # Errors
/// A container that has ended, or the limit that the kernel refuses; then the old ones are in force.
pub async fn update(
    service: &Arc<ServiceState>,
    container: Arc<Container>,
    wanted: Resources,
) -> Result<(), RuntimeError> {
    let status = container.status();
    let id = container.id().clone();
    if !matches!(status.state, State::Created | State::Running { .. }) {
        return Err(RuntimeError::Refused { id, refusal: status.state.refuse("have its limits changed") });
    }
    let merged = merge(&status.resources, wanted);
    let owned = service.clone();
    let running = matches!(status.state, State::Running { .. });
    let work = move |steps: &Steps| {
        if running {
            steps.step("cgroup", || apply(&owned, &container, &merged, &status.resources))?;
        }
        steps.step("record", || {
            rewrite_spec(&container, &merged)?;
            Ok(container.status_cell.update_resources(merged)?)
        })
    };
    service.stages(OPERATION).blocking(DEADLINE, work).await.map_err(|failure| {
        Failure { subject: format!("container {id}"), operation: OPERATION, failure, undo: vec![] }.into()
    })
}

fn merge(now: &Resources, wanted: Resources) -> Resources {
    let mut unified = now.unified.clone();
    unified.extend(wanted.unified);
    Resources {
        cpu_period: wanted.cpu_period.or(now.cpu_period),
        cpu_quota: wanted.cpu_quota.or(now.cpu_quota),
        cpu_shares: wanted.cpu_shares.or(now.cpu_shares),
        memory_limit: wanted.memory_limit.or(now.memory_limit),
        memory_swap_limit: wanted.memory_swap_limit.or(now.memory_swap_limit),
        // Belongs to the process and cannot be changed from outside it in a meaningful way.
        oom_score_adj: now.oom_score_adj,
        cpuset_cpus: wanted.cpuset_cpus.or_else(|| now.cpuset_cpus.clone()),
        cpuset_mems: wanted.cpuset_mems.or_else(|| now.cpuset_mems.clone()),
        hugepages: if wanted.hugepages.is_empty() { now.hugepages.clone() } else { wanted.hugepages },
        unified,
    }
}

fn apply(
    service: &ServiceState,
    container: &Container,
    wanted: &Resources,
    now: &Resources,
) -> Result<(), Cause> {
    let pod = service.pod_of(container).ok_or_else(|| Cause::Task("its pod is gone".to_owned()))?;
    let cgroup = service.cgroups.open(&cgroup_path(&pod, container.id())?)?;
    cgroup.apply(&without_devices(wanted)?).map_err(|error| {
        // Some of the new ones may be in force.
        if let Ok(old) = without_devices(now)
            && let Err(second) = cgroup.apply(&old)
        {
            tracing::error!(container = %container.id(), error = %second, "cannot put the old limits back");
        }
        error.into()
    })
}

/// The device rules stay as they are.
fn without_devices(resources: &Resources) -> Result<cgroup::Resources, Cause> {
    let mut limits = cgroup::Resources::from_spec(&limits::resources(resources, vec![]))?;
    limits.devices = None;
    limits.memory.check_before_update = true;
    Ok(limits)
}

/// config.json says what is true.
fn rewrite_spec(container: &Container, resources: &Resources) -> Result<(), Cause> {
    let mut spec = read_spec(container)?;
    if let Some(linux) = spec.linux_mut() {
        let devices = linux.resources().as_ref().and_then(|r| r.devices().clone());
        linux.set_resources(Some(limits::resources(resources, devices.unwrap_or_default())));
    }
    let path = container.folder.spec();
    let text = serde_json::to_vec(&spec).map_err(|e| Cause::Task(e.to_string()))?;
    let beside = path.with_extension("new");
    fs::write(&beside, text).map_err(Cause::file(&beside))?;
    fs::rename(&beside, &path).map_err(Cause::file(&path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_asked_for_stays() {
        let now = Resources {
            cpu_shares: Some(512),
            memory_limit: Some(1 << 20),
            oom_score_adj: -5,
            ..Default::default()
        };
        let wanted = Resources { memory_limit: Some(1 << 21), oom_score_adj: 9, ..Default::default() };
        let merged = merge(&now, wanted);
        assert_eq!(
            (merged.cpu_shares, merged.memory_limit, merged.oom_score_adj),
            (Some(512), Some(1 << 21), -5)
        );
    }
}
