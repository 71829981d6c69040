//! Keeps the logs of running containers small where no kubelet does it.
//!
//! Each log is looked at and rotated by a task of its own: a volume that hangs holds up its own log alone, and takes
//! one thread at most.

use std::collections::HashMap;
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use crisp_executor::ids::ContainerId;

use crate::container::Container;
use crate::error::RuntimeError;
use crate::ops::{log_reopen, log_rotate};
use crate::service_state::ServiceState;

/// Interval of the checks.
const TICK: Duration = Duration::from_secs(1);
/// Time until the next try for a log that could not be rotated.
const AGAIN: Duration = Duration::from_secs(60);
/// An annotation of all containers that kubelets make. They rotate their logs, by their own settings.
const OF_KUBELET: &str = "io.kubernetes.container.hash";

/// When logs are rotated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogLimits {
    /// Size in bytes.
    pub size: u64,
    /// Files that are kept of each log, with the present one; 2 or more.
    pub files: u32,
}

/// The log of one container.
struct Log {
    /// There is a task for it.
    is_busy: AtomicBool,
    /// When to look whether the monitor still writes to a renamed file. None: it does not.
    mend_at: Mutex<Option<Instant>>,
}

/// Held while there is a task for a log, and while a thread works on it.
struct Busy(Arc<Log>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.is_busy.store(false, Ordering::Release);
    }
}

impl Log {
    /// An earlier server may have died in the middle of a rotation: the first look is for that.
    fn new() -> Arc<Self> {
        Arc::new(Self { is_busy: AtomicBool::new(false), mend_at: Mutex::new(Some(Instant::now())) })
    }

    fn mend_at(&self) -> Option<Instant> {
        *self.mend_at.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_mend_at(&self, at: Option<Instant>) {
        *self.mend_at.lock().unwrap_or_else(PoisonError::into_inner) = at;
    }
}

/// Rotates logs until the service ends.
pub(crate) fn keep(service: &Arc<ServiceState>) {
    let service = Arc::downgrade(service);
    tokio::spawn(async move {
        let mut logs = HashMap::new();
        while check(&service, &mut logs) {
            tokio::time::sleep(TICK).await;
        }
    });
}

/// Starts the tasks that are due. Returns false when the service has ended.
fn check(service: &Weak<ServiceState>, logs: &mut HashMap<ContainerId, Arc<Log>>) -> bool {
    let Some(service) = service.upgrade() else { return false };
    let Some(limits) = service.live_config().log_limits else { return true };
    let mut containers = service.containers.all();
    containers.retain(|container| is_ours(container));
    logs.retain(|id, _| containers.iter().any(|container| container.id() == id));
    for container in containers {
        let log = logs.entry(container.id().clone()).or_insert_with(Log::new);
        if log.is_busy.load(Ordering::Acquire) || !is_due(&container, log, limits) {
            continue;
        }
        log.is_busy.store(true, Ordering::Release);
        tokio::spawn(keep_small(service.clone(), container, Busy(log.clone()), limits));
    }
    true
}

/// Whether it runs, has a log, and no kubelet rotates it.
fn is_ours(container: &Container) -> bool {
    container.metadata.log_path.is_some()
        && !container.metadata.config.annotations.contains_key(OF_KUBELET)
        && container.status().state.pid().is_some()
}

/// Whether a look is needed that may wait for a disk.
fn is_due(container: &Container, log: &Log, limits: LogLimits) -> bool {
    match (log.mend_at(), &container.metadata.log_path) {
        (Some(at), _) => at <= Instant::now(),
        (None, Some(path)) => log_rotate::size_in_cache(path).is_none_or(|size| size >= limits.size),
        (None, None) => false,
    }
}

async fn keep_small(service: Arc<ServiceState>, container: Arc<Container>, busy: Busy, limits: LogLimits) {
    let log = busy.0.clone();
    let done = match log.mend_at() {
        Some(_) => mend(&service, &container, busy).await,
        None => rotate_if_large(&service, &container, busy, limits).await,
    };
    log.set_mend_at(done.is_err().then(|| Instant::now() + AGAIN));
    if let Err(error) = done
        && container.status().state.pid().is_some()
    {
        tracing::warn!(container = %container.id(), %error, "a log that is too large cannot be rotated");
    }
}

/// Reopens a log whose rotation was not finished.
async fn mend(
    service: &Arc<ServiceState>,
    container: &Arc<Container>,
    busy: Busy,
) -> Result<(), RuntimeError> {
    let Some(path) = container.metadata.log_path.clone() else { return Ok(()) };
    let look = move || (log_rotate::is_half_rotated(&path), busy);
    match tokio::task::spawn_blocking(look).await {
        Ok((true, busy)) => log_reopen::reopen_holding(service, container, busy).await,
        _ => Ok(()),
    }
}

async fn rotate_if_large(
    service: &Arc<ServiceState>,
    container: &Arc<Container>,
    busy: Busy,
    limits: LogLimits,
) -> Result<(), RuntimeError> {
    let Some(path) = container.metadata.log_path.clone() else { return Ok(()) };
    let look = move || (fs::symlink_metadata(&path).map_or(0, |log| log.len()), busy);
    match tokio::task::spawn_blocking(look).await {
        Ok((size, busy)) if size >= limits.size => {
            log_rotate::rotate(service, container, limits.files, busy).await
        }
        _ => Ok(()),
    }
}
