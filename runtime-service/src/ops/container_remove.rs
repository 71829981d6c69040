//! RemoveContainer: stops the container and removes everything that it has on the machine.
//!
//! ```text
//!   stop ─> Removing ─> poststop hooks ─> cgroup ─> folder renamed to discarded/ ─> monitor ─> not listed any more
//!                                                      └─> deleted in the background
//! ```
//!
//! The monitor forgets the exit last: if the disk has refused it, only the monitor has it for a server that
//! starts before the folder is removed.
//!
//! The log stays: it is the client's, and another container may write to the same file, also if this one was never
//! started.

use std::convert::Infallible;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use crisp_operation::{KeyedGuard, record};

use super::container_stop::stop;
use super::{container_hooks, container_prepare};
use crate::cause::{Cause, Operation, StageFailure, Steps};
use crate::container::Container;
use crate::container::state::State;
use crate::error::RuntimeError;
use crate::events::Kind;
use crate::service_state::ServiceState;

const OPERATION: &str = "remove_container";
/// Time limit for another operation on the container.
const LOCK: Duration = Duration::from_secs(30);
/// Interval at which a copy is cancelled while the removal waits.
const COPY_ENDS: Duration = Duration::from_millis(100);
const FORGET: Duration = Duration::from_secs(5);
const FILES: Duration = Duration::from_secs(30);
/// Time limit for one deletion before the next one starts beside it.
const SLOW: Duration = Duration::from_secs(10);

/// Removes the container, killing it first if it runs, or joins its removal.
///
/// # Errors
/// A stage failed; the container is still listed and can be removed again.
pub async fn remove(service: &Arc<ServiceState>, container: Arc<Container>) -> Result<(), RuntimeError> {
    let owned = service.clone();
    let id = container.id().clone();
    let removed = service.removes.run(id, move || async move { remove_once(&owned, &container).await });
    Ok(removed.await?)
}

async fn remove_once(service: &Arc<ServiceState>, container: &Arc<Container>) -> Result<(), RuntimeError> {
    let mut operation = service.operation(OPERATION, container.id());
    let lock = operation.turn(stop_and_lock(service, container)).await?;
    if service.containers.get(container.id()).is_none() {
        return Ok(()); // another removal was faster
    }
    operation.hold(lock);
    let result = delete(&operation, service, container).await;
    operation.finish(result).await?;
    container.leases.lock().unwrap_or_else(PoisonError::into_inner).take();
    let mut emitter = service.emitter();
    service.containers.remove(container.id());
    emitter.emit(Kind::Deleted, container);
    drop(emitter);
    let discarded = service.layout.discarded_container(container.id());
    delete_in_background(service, vec![discarded.path().to_owned()]);
    Ok(())
}

/// Returns with the container's lock and with the container in the state Removing, from which it cannot be
/// started.
async fn stop_and_lock(
    service: &Arc<ServiceState>,
    container: &Arc<Container>,
) -> Result<KeyedGuard, RuntimeError> {
    loop {
        stop(service, container.clone(), Duration::ZERO).await?;
        let id = container.id().clone();
        let busy = |busy| RuntimeError::Busy { id: id.clone(), busy };
        let locked = service.locks.lock_within(id.clone(), OPERATION, LOCK);
        let lock = tokio::select! {
            lock = locked => lock.map_err(busy)?,
            never = end_copies(container) => match never {},
        };
        // Only in memory, so that a full disk does not prevent the removal.
        if container.status_cell.show(|status| status.with_state(State::removing)).is_ok() {
            return Ok(lock);
        }
        // A start was faster than the lock.
    }
}

/// Cancels the copy that writes to the container, and each copy that requested the lock before the removal.
async fn end_copies(container: &Container) -> Infallible {
    loop {
        container.written_by.lock().unwrap_or_else(PoisonError::into_inner).cancel();
        tokio::time::sleep(COPY_ENDS).await;
    }
}

async fn delete(
    operation: &Operation,
    service: &Arc<ServiceState>,
    container: &Arc<Container>,
) -> Result<(), StageFailure> {
    let work = {
        let (service, container) = (service.clone(), container.clone());
        move |steps: &Steps| {
            steps.step("cgroup", || container_prepare::discard(&service, &container))?;
            steps.step("folder", || discard_folder(&service, &container))
        }
    };
    // They read the folder.
    if let Some(limit) = container_hooks::poststop_limit(container) {
        let hooks = |_| container_hooks::run_poststop_alone(container);
        operation.stage("hooks", FILES + limit, hooks).await?;
    }
    operation.blocking(FILES, work).await?;
    forget(operation, service, container).await
}

/// Lets the monitor drop the exit record. A monitor that does not answer drops all of them with its pod.
async fn forget(
    operation: &Operation,
    service: &ServiceState,
    container: &Container,
) -> Result<(), StageFailure> {
    let Some(link) = service.pod_of(container).and_then(|pod| pod.link().ok()) else { return Ok(()) };
    let forget = |_| async {
        if let Err(error) = link.within(FORGET).forget(container.id()).await {
            tracing::debug!(container = %container.id(), %error, "the monitor did not forget a container");
        }
        Ok(())
    };
    operation.stage("monitor", FORGET + Duration::from_secs(1), forget).await
}

/// Renames the folder in one step, because deleting its content may take long.
fn discard_folder(service: &ServiceState, container: &Container) -> Result<(), Cause> {
    container.status_cell.close();
    let (from, to) = (container.folder.path(), service.layout.discarded_container(container.id()));
    match fs::rename(from, to.path()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        // A full disk may not allow a new name in the other folder.
        Err(_) => record::remove_folder(from).map_err(Cause::file(from)),
        Ok(()) => Ok(()),
    }
}

/// Deletes discarded folders one after the other, together with those of other removals. A slow deletion,
/// which may never end, does not block the others.
pub(crate) fn delete_in_background(service: &Arc<ServiceState>, folders: Vec<PathBuf>) {
    let service = service.clone();
    tokio::spawn(async move {
        let one_at_a_time = service.deleting.lock().await;
        let subject = folders.first().map(|folder| folder.display().to_string()).unwrap_or_default();
        let operation = Operation::new(&service.metrics, "delete_files", subject);
        let delete = move |steps: &Steps| {
            for folder in folders {
                let deleted =
                    steps.step("folder", || record::remove_folder(&folder).map_err(Cause::file(&folder)));
                if let Err(error) = deleted {
                    tracing::error!(%error, "cannot delete a removed container's files; the next server tries again");
                }
            }
            Ok(())
        };
        let deleted = operation.blocking(SLOW, delete).await;
        drop(one_at_a_time);
        if deleted.is_err() {
            tracing::warn!("deleting removed containers' files takes long: it goes on beside the next");
        }
        let _ = operation.finish(deleted).await;
    });
}
