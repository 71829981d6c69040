//! UpdateContainerResources: sets new limits for a container, running or not started yet.

use std::sync::Arc;
use std::time::Duration;

use crisp_executor::cgroup::{self, Cgroup};
use crisp_operation::detached;

use super::container_oom_score::{self, Scores};
use super::container_spec;
use crate::cause::{Cause, StageFailure, Steps};
use crate::container::Container;
use crate::container::config::Resources;
use crate::container::state::{Refusal, State};
use crate::container::status::Status;
use crate::error::RuntimeError;
use crate::service_state::{ServiceState, cgroup_path};
use crate::spec::limits;

const OPERATION: &str = "update_container_resources";
/// Time limit for another operation on the container.
const LOCK: Duration = Duration::from_secs(15);
const DEADLINE: Duration = Duration::from_secs(15);

/// Applies the limits in `request`; other limits stay as they are.
///
/// # Errors
/// The container has ended, or the kernel refuses a limit; then the old limits are in force.
pub async fn update(
    service: &Arc<ServiceState>,
    container: Arc<Container>,
    request: Resources,
) -> Result<(), RuntimeError> {
    let service = service.clone();
    detached(async move { update_once(&service, &container, request).await }).await
}

async fn update_once(
    service: &Arc<ServiceState>,
    container: &Arc<Container>,
    request: Resources,
) -> Result<(), RuntimeError> {
    let id = container.id().clone();
    let busy = |busy| RuntimeError::Busy { id: id.clone(), busy };
    let mut operation = service.operation(OPERATION, &id);
    let lock = operation.turn(service.locks.lock_within(id.clone(), OPERATION, LOCK)).await.map_err(busy)?;
    let status = container.status();
    may_change(&status.state).map_err(|refusal| RuntimeError::Refused { id: id.clone(), refusal })?;
    // The thread that rewrites config.json may outlive the operation, and keeps the lock until it ends: a later update or
    // removal must not meet it.
    let lock = Arc::new(lock);
    operation.hold(lock.clone());
    let work = {
        let (service, container) = (service.clone(), container.clone());
        move |steps: &Steps| apply(&service, &container, &status, &request, steps)
    };
    let result = operation.blocking(DEADLINE, work).await;
    if result.is_ok() {
        // The limits are set and recorded: a file for people and tools that takes long takes none of them back.
        let (service, container) = (service.clone(), container.clone());
        let rewrite = move |steps: &Steps| {
            let _lock = lock;
            steps.step("config.json", || rewrite_config_json(&service, &container))
        };
        if let Err(error) = operation.blocking(DEADLINE, rewrite).await {
            tracing::warn!(container = %id, %error, "config.json shows the limits before the update");
        }
    }
    Ok(operation.finish(result).await?)
}

fn may_change(state: &State) -> Result<(), Refusal> {
    match state {
        State::Created | State::Running { .. } => Ok(()),
        other => Err(other.refuse("have its limits changed")),
    }
}

fn apply(
    service: &ServiceState,
    container: &Arc<Container>,
    status: &Status,
    request: &Resources,
    steps: &Steps,
) -> Result<(), StageFailure> {
    let resources = merge(&status.resources, request);
    if matches!(status.state, State::Running { .. }) {
        let cgroup = steps.step("open cgroup", || open_cgroup(service, container))?;
        let (old, again) = (or_unlimited(&status.resources, request), cgroup.clone());
        // A failed change may have set some of the limits.
        let reader = Arc::clone(container);
        steps.undo("limits", move || {
            let undone = again.apply(&without_devices(&old)?);
            reader.meters.cgroup.reader.expect_new_limits();
            Ok(undone?)
        });
        let changed = steps.step("limits", || Ok(cgroup.apply(&without_devices(&resources)?)?));
        container.meters.cgroup.reader.expect_new_limits();
        changed?;
    }
    steps.step("record", || {
        let change = |status: &Status| {
            may_change(&status.state)?;
            Ok(Status { resources: resources.clone(), ..status.clone() })
        };
        container.status_cell.update(change)?;
        // Commands that start from now on have the new score.
        container.forget_exec_process();
        Ok(())
    })?;
    if let (State::Running { pid, .. }, true) = (&status.state, request.oom_score_adj != 0) {
        let recorded = status.resources.oom_score_adj;
        let scores = Scores { recorded, first: *pid, new: resources.oom_score_adj };
        match open_cgroup(service, container) {
            Ok(cgroup) => container_oom_score::change(&cgroup, &scores, steps.cancel()),
            // The container has ended.
            Err(error) => tracing::debug!(container = %container.id(), %error, "no OOM score is changed"),
        }
    }
    Ok(())
}

fn merge(now: &Resources, request: &Resources) -> Resources {
    let mut unified = now.unified.clone();
    unified.extend(request.unified.clone());
    let (memory_limit, memory_swap_limit) = merge_memory(now, request);
    let hugepages = if request.hugepages.is_empty() { &now.hugepages } else { &request.hugepages };
    Resources {
        cpu_period: request.cpu_period.or(now.cpu_period),
        cpu_quota: request.cpu_quota.or(now.cpu_quota),
        cpu_shares: request.cpu_shares.or(now.cpu_shares),
        memory_limit,
        memory_swap_limit,
        oom_score_adj: if request.oom_score_adj == 0 { now.oom_score_adj } else { request.oom_score_adj },
        cpuset_cpus: request.cpuset_cpus.clone().or_else(|| now.cpuset_cpus.clone()),
        cpuset_mems: request.cpuset_mems.clone().or_else(|| now.cpuset_mems.clone()),
        hugepages: hugepages.clone(),
        unified,
    }
}

/// A swap limit includes memory: if the request changes only the memory limit, the amount of swap stays the
/// same.
fn merge_memory(now: &Resources, request: &Resources) -> (Option<i64>, Option<i64>) {
    let memory = request.memory_limit.or(now.memory_limit);
    let swap =
        match (request.memory_limit, request.memory_swap_limit, now.memory_limit, now.memory_swap_limit) {
            (Some(_), None, _, Some(total)) if total <= 0 => Some(total),
            (Some(new), None, Some(old), Some(total)) if new > 0 && old > 0 => {
                Some(new.saturating_add(total.saturating_sub(old).max(0)))
            }
            // Without a memory limit there is no limit for both together.
            (Some(new), None, _, Some(_)) if new < 0 => Some(-1),
            (_, requested, _, total) => requested.or(total),
        };
    (memory, swap)
}

/// The limits `now`; where `request` sets a missing one, "unlimited" is filled in.
fn or_unlimited(now: &Resources, request: &Resources) -> Resources {
    let limit = |now: Option<i64>, requested: Option<i64>| now.or(requested.map(|_| -1));
    Resources {
        cpu_quota: limit(now.cpu_quota, request.cpu_quota),
        memory_limit: limit(now.memory_limit, request.memory_limit),
        memory_swap_limit: limit(now.memory_swap_limit, request.memory_swap_limit),
        ..now.clone()
    }
}

fn open_cgroup(service: &ServiceState, container: &Container) -> Result<Cgroup, Cause> {
    let pod = service.pod_of(container).ok_or(Cause::PodGone)?;
    Ok(service.cgroups.open(&cgroup_path(&pod, container.id())?)?)
}

/// The device rules stay as they are.
fn without_devices(resources: &Resources) -> Result<cgroup::Resources, Cause> {
    let mut limits = cgroup::Resources::from_spec(&limits::resources(resources, vec![]))?;
    limits.devices = None;
    limits.memory.check_before_update = true;
    Ok(limits)
}

/// Updates the file for people and tools.
fn rewrite_config_json(service: &ServiceState, container: &Container) -> Result<(), Cause> {
    let pod = service.pod_of(container).ok_or(Cause::PodGone)?;
    let spec = container_spec::build(service, &container.metadata, &container.status().resources, &pod)?;
    container_spec::write(&container.folder, &spec)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_where_none_was_is_taken_back() {
        let now = Resources { cpu_quota: Some(1000), ..Default::default() };
        let request = Resources { cpu_quota: Some(2000), memory_limit: Some(1 << 20), ..Default::default() };
        let old = or_unlimited(&now, &request);
        assert_eq!((old.cpu_quota, old.memory_limit, old.memory_swap_limit), (Some(1000), Some(-1), None));
    }

    #[test]
    fn memory_alone_keeps_as_much_swap_as_there_was() {
        const MIB: i64 = 1 << 20;
        let after = |memory: i64, total: i64, requested: Option<i64>, requested_total: Option<i64>| {
            let limits = |memory, total| Resources {
                memory_limit: memory,
                memory_swap_limit: total,
                ..Default::default()
            };
            let merged = merge(&limits(Some(memory), Some(total)), &limits(requested, requested_total));
            (merged.memory_limit, merged.memory_swap_limit)
        };
        assert_eq!(after(100 * MIB, 100 * MIB, Some(200 * MIB), None), (Some(200 * MIB), Some(200 * MIB)));
        assert_eq!(after(100 * MIB, 100 * MIB, Some(50 * MIB), None), (Some(50 * MIB), Some(50 * MIB)));
        assert_eq!(after(100 * MIB, 130 * MIB, Some(50 * MIB), None), (Some(50 * MIB), Some(80 * MIB)));
        assert_eq!(after(100 * MIB, -1, Some(50 * MIB), None), (Some(50 * MIB), Some(-1)));
        assert_eq!(after(100 * MIB, 130 * MIB, Some(-1), None), (Some(-1), Some(-1)));
        assert_eq!(after(100 * MIB, 130 * MIB, None, Some(-1)), (Some(100 * MIB), Some(-1)));
        assert_eq!(
            after(100 * MIB, 100 * MIB, Some(50 * MIB), Some(60 * MIB)),
            (Some(50 * MIB), Some(60 * MIB))
        );
    }

    #[test]
    fn what_is_not_requested_stays() {
        let now = Resources {
            cpu_shares: Some(512),
            memory_limit: Some(1 << 20),
            oom_score_adj: -5,
            ..Default::default()
        };
        let request = Resources { memory_limit: Some(1 << 21), oom_score_adj: 9, ..Default::default() };
        let merged = merge(&now, &request);
        assert_eq!(
            (merged.cpu_shares, merged.memory_limit, merged.oom_score_adj),
            (Some(512), Some(1 << 21), 9)
        );
        assert_eq!(merge(&now, &Resources::default()).oom_score_adj, -5);
    }
}
