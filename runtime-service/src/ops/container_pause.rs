//! Pause: freezes all processes of a container until it is unpaused, stopped or killed.
//!
//! ```text
//!   Running ──freezer of its cgroup──> Running, paused ──unpause, stop signal, kill──> Running
//! ```
//!
//! The record has the pause for the next server, because the freezer outlives the server.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use crisp_operation::detached;

use crate::cause::{Cause, StageFailure, Steps};
use crate::container::Container;
use crate::container::state::{Refusal, State};
use crate::container::status::Status;
use crate::error::RuntimeError;
use crate::ops::container_cgroup;
use crate::service_state::ServiceState;

/// Time limit for another operation on the container.
const LOCK: Duration = Duration::from_secs(15);
const DEADLINE: Duration = Duration::from_secs(10);
/// The first and the longest pause between two tries to end the pause of a commit.
const AGAIN: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(10)];

type Work = fn(&Arc<ServiceState>, &Arc<Container>, &Steps) -> Result<(), StageFailure>;

/// Pauses the container.
///
/// # Errors
/// It does not run, is paused already, or has a process that cannot be paused; then all are resumed.
pub async fn pause(service: &Arc<ServiceState>, container: Arc<Container>) -> Result<(), RuntimeError> {
    change(service, container, "pause_container", freeze).await
}

/// Pauses the container for a commit, until [`end_commit`].
///
/// # Errors
/// As for [`pause`].
pub(super) async fn pause_for_commit(
    service: &Arc<ServiceState>,
    container: Arc<Container>,
) -> Result<(), RuntimeError> {
    change(service, container, "pause_container", freeze_for_commit).await
}

/// Resumes a container that a commit has paused, also one of an earlier server. Tries until it runs or has
/// ended.
pub(crate) async fn end_commit(service: Arc<ServiceState>, container: Arc<Container>) {
    let [mut wait, longest] = AGAIN;
    while container.status().committing {
        match unpause(&service, container.clone()).await {
            Ok(()) => return,
            Err(error) => tracing::error!(%error, "a container that a commit has paused; trying on"),
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(longest);
    }
}

/// Resumes its processes.
///
/// # Errors
/// It is not paused, or the kernel's error.
pub async fn unpause(service: &Arc<ServiceState>, container: Arc<Container>) -> Result<(), RuntimeError> {
    change(service, container, "unpause_container", thaw).await
}

async fn change(
    service: &Arc<ServiceState>,
    container: Arc<Container>,
    name: &'static str,
    work: Work,
) -> Result<(), RuntimeError> {
    let service = service.clone();
    detached(async move { change_once(&service, container, name, work).await }).await
}

async fn change_once(
    service: &Arc<ServiceState>,
    container: Arc<Container>,
    name: &'static str,
    work: Work,
) -> Result<(), RuntimeError> {
    let id = container.id().clone();
    let busy = |busy| RuntimeError::Busy { id: id.clone(), busy };
    let mut operation = service.operation(name, &id);
    let lock = operation.turn(service.locks.lock_within(id.clone(), name, LOCK)).await.map_err(busy)?;
    operation.hold(lock);
    let service = service.clone();
    let result = operation.blocking(DEADLINE, move |steps| work(&service, &container, steps)).await;
    Ok(operation.finish(result).await?)
}

/// Recorded before any process is frozen, in case the server ends in between.
fn freeze_for_commit(
    service: &Arc<ServiceState>,
    container: &Arc<Container>,
    steps: &Steps,
) -> Result<(), StageFailure> {
    let of = container.clone();
    steps.undo("note", move || {
        note_unpaused(&of);
        Ok(())
    });
    let committing = |status: &Status| match &status.state {
        State::Running { .. } if !status.paused => Ok(Status { committing: true, ..status.clone() }),
        State::Running { .. } => Err(Refusal { now: "is paused", wanted: "be paused" }),
        other => Err(other.refuse("be paused")),
    };
    steps.step("note", || Ok(container.status_cell.update(committing).map(drop)?))?;
    freeze(service, container, steps)
}

fn freeze(
    service: &Arc<ServiceState>,
    container: &Arc<Container>,
    steps: &Steps,
) -> Result<(), StageFailure> {
    let refusal = |status: &Status| match &status.state {
        State::Running { .. } if status.paused => Err(Refusal { now: "is paused", wanted: "be paused" }),
        State::Running { .. } => Ok(Status { paused: true, ..status.clone() }),
        other => Err(other.refuse("be paused")),
    };
    let may_be = || {
        // It would stay frozen through its grace period.
        if service.stops.get(container.id()).is_some() {
            return Err(Refusal { now: "is being stopped", wanted: "be paused" }.into());
        }
        Ok(refusal(&container.status()).map(drop)?)
    };
    steps.step("state", may_be)?;
    let again = (service.clone(), container.clone());
    steps.undo("freezer", move || {
        note_unpaused(&again.1);
        set(&again.0, &again.1, false)
    });
    steps.step("freezer", || set(service, container, true))?;
    steps.step("state", may_be)?;
    // It may have ended meanwhile.
    steps.step("record", || Ok(container.status_cell.update(refusal).map(drop)?))
}

fn thaw(service: &Arc<ServiceState>, container: &Arc<Container>, steps: &Steps) -> Result<(), StageFailure> {
    let status = container.status();
    steps.step("state", || match &status.state {
        State::Running { .. } if status.paused || status.committing => Ok(()),
        // A server that ended while it paused the container did not record it.
        State::Running { .. } if is_frozen(service, container) => Ok(()),
        State::Running { .. } => Err(Refusal { now: "is not paused", wanted: "be unpaused" }.into()),
        other => Err(other.refuse("be unpaused").into()),
    })?;
    steps.step("freezer", || set(service, container, false))?;
    steps.step("record", || {
        note_unpaused(container);
        Ok(())
    })
}

fn set(service: &ServiceState, container: &Container, paused: bool) -> Result<(), Cause> {
    let Some(cgroup) = container_cgroup::open(service, container)? else { return Ok(()) };
    Ok(if paused { cgroup.freeze() } else { cgroup.thaw() }?)
}

fn is_frozen(service: &ServiceState, container: &Container) -> bool {
    let cgroup = container_cgroup::open(service, container).ok().flatten();
    cgroup.is_some_and(|cgroup| cgroup.is_frozen().unwrap_or(false))
}

fn note_unpaused(container: &Container) {
    let unpaused =
        |status: &Status| Ok::<_, Infallible>(Status { paused: false, committing: false, ..status.clone() });
    let _ = container.status_cell.observe(unpaused);
}

/// Resumes a paused container, so that it handles the signal that was sent to it.
pub(super) async fn resume_for_signal(service: &Arc<ServiceState>, container: &Arc<Container>) {
    let (owned, of) = (service.clone(), container.clone());
    // The kernel's state is used, because a server that ended meanwhile may not have written the record.
    let thaw = move || {
        let is_frozen = of.status().paused || is_frozen(&owned, &of);
        if is_frozen { set(&owned, &of, false).map(|()| true) } else { Ok(false) }
    };
    match tokio::task::spawn_blocking(thaw).await {
        Ok(Ok(true)) => note_unpaused(container),
        Ok(Ok(false)) => {}
        Ok(Err(error)) => tracing::warn!(container = %container.id(), %error, "cannot be unpaused"),
        Err(_) => {}
    }
}
