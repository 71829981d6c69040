//! Reset: makes an ended container ready to start again, with all its files.
//!
//! ```text
//!   Exited ─> its cgroup is empty ─> monitor forgets its exit ─> poststop hooks ─> new work folder ─> Created
//! ```
//!
//! In the CRI a container starts once, so kubelet never uses this.

use std::fs;
use std::os::unix::fs::DirBuilderExt as _;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use crisp_operation::{detached, record};
use crisp_sandbox::link::{Failure, LinkError};

use super::{container_cgroup, container_hooks};
use crate::cause::{Cause, Operation, StageFailure, Steps};
use crate::container::Container;
use crate::container::state::State;
use crate::error::RuntimeError;
use crate::service_state::ServiceState;

const OPERATION: &str = "reset_container";
/// Time limit for another operation on the container.
const LOCK: Duration = Duration::from_secs(30);
/// Time limit for the remaining processes to be killed.
const CLEANED: Duration = Duration::from_secs(30);
const FORGET: Duration = Duration::from_secs(5);
const FILES: Duration = Duration::from_secs(30);

/// Makes the container ready to be started again.
///
/// # Errors
/// It has not ended, a newer one has its name, or its pod does not run; it is unchanged then.
pub async fn reset(service: &Arc<ServiceState>, container: Arc<Container>) -> Result<(), RuntimeError> {
    let service = service.clone();
    detached(async move { reset_once(&service, container).await }).await
}

async fn reset_once(service: &Arc<ServiceState>, container: Arc<Container>) -> Result<(), RuntimeError> {
    let id = container.id().clone();
    let refused = |refusal| RuntimeError::Refused { id: id.clone(), refusal };
    let busy = |busy| RuntimeError::Busy { id: id.clone(), busy };
    container.status().state.reset().map_err(refused)?;
    let mut operation = service.operation(OPERATION, &id);
    let lock = operation.turn(service.locks.lock_within(id.clone(), OPERATION, LOCK)).await.map_err(busy)?;
    let no_newer = newer(service, &container);
    no_newer.map_or(Ok(()), Err)?;
    operation.hold(lock);
    let result = stages(&operation, service, &container).await;
    Ok(operation.finish(result).await?)
}

/// The refusal when another container has the same name in the pod and a higher attempt.
fn newer(service: &ServiceState, container: &Container) -> Option<RuntimeError> {
    let config = &container.metadata.config;
    let all = service.containers.of_pod(&container.metadata.pod);
    let newer = all.into_iter().find(|other| {
        let of_other = &other.metadata.config;
        of_other.name == config.name && of_other.attempt > config.attempt
    })?;
    let state = newer.status().state.name();
    let name = format!("{} (attempt {})", config.name, newer.metadata.config.attempt);
    Some(RuntimeError::NameTaken { name, id: newer.id().clone(), state })
}

async fn stages(
    operation: &Operation,
    service: &Arc<ServiceState>,
    container: &Arc<Container>,
) -> Result<(), StageFailure> {
    let pod = |_| async { Ok(service.pod_of(container).ok_or(Cause::PodGone)?.ready_link()?) };
    let link = operation.stage("pod", FORGET, pod).await?;
    let cleaned = |_| async {
        drop(container.cleaning.lock().await);
        Ok(())
    };
    let hooks = container_hooks::poststop_limit(container).unwrap_or_default();
    operation.stage("cgroup", CLEANED + hooks, cleaned).await?;
    // If the disk has refused the exit, only the monitor has it.
    let owned = container.clone();
    let save = move |steps: &Steps| steps.step("exit", || Ok(owned.status_cell.save()?));
    operation.blocking(FILES, save).await?;
    let forget = |_| async {
        match link.within(FORGET).forget(container.id()).await {
            // The monitor never had it.
            Err(LinkError::Refused { failure: Failure::UnknownContainer { .. }, .. }) => Ok(()),
            forgotten => Ok(forgotten?),
        }
    };
    operation.stage("monitor", FORGET + Duration::from_secs(1), forget).await?;
    let (service, container) = (service.clone(), container.clone());
    operation.blocking(FILES + hooks, move |steps| begin_again(&service, &container, steps)).await
}

fn begin_again(service: &ServiceState, container: &Container, steps: &Steps) -> Result<(), StageFailure> {
    steps.step("cgroup", || container_cgroup::remove(service, container))?;
    steps.step("poststop hooks", || container_hooks::run_due(container))?;
    // The kernel has marked it as used and would refuse a second mount.
    let work = container.folder.work();
    steps.step("work folder", || {
        record::remove_folder(&work)
            .and_then(|()| fs::DirBuilder::new().mode(0o700).create(&work))
            .map_err(Cause::file(&work))
    })?;
    container.exec_process.lock().unwrap_or_else(PoisonError::into_inner).take();
    container.exec_cgroups.clear();
    container.stop_signal_sent.store(false, Ordering::SeqCst);
    container.meters.cgroup.reader.reopen();
    steps.step("record", || Ok(container.update_state(State::reset)?))
}
