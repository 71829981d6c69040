//! Keeps the logs of running containers small where no kubelet does it.
//!
//! Each log is looked at and rotated by a task of its own: a volume that hangs holds up its own log alone, and takes
//! one thread at most.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
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

/// A container, and why its log was not rotated.
type Failure = (Arc<Container>, RuntimeError);

/// The log at one path.
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

/// A log, and the containers that are known to write to it.
struct KnownLog {
    log: Arc<Log>,
    writers: Vec<ContainerId>,
}

impl KnownLog {
    fn new() -> Self {
        Self { log: Log::new(), writers: vec![] }
    }

    /// One that joins others may have opened the file that a rotation has just renamed.
    fn writes(&mut self, containers: &[Arc<Container>]) {
        let joins = |container: &Arc<Container>| !self.writers.contains(container.id());
        if containers.len() > 1 && containers.iter().any(joins) {
            self.log.set_mend_at(Some(Instant::now()));
        }
        self.writers = containers.iter().map(|container| container.id().clone()).collect();
    }
}

impl Log {
    /// An earlier server may have died in the middle of a rotation: the first look is for that.
    fn new() -> Arc<Self> {
        Arc::new(Self { is_busy: AtomicBool::new(false), mend_at: Mutex::new(Some(Instant::now())) })
    }

    fn is_busy(&self) -> bool {
        self.is_busy.load(Ordering::Acquire)
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
fn check(service: &Weak<ServiceState>, logs: &mut HashMap<PathBuf, KnownLog>) -> bool {
    let Some(service) = service.upgrade() else { return false };
    let limits = service.live_config().log_limits;
    let writers = writers(service.containers.all());
    logs.retain(|path, known| writers.contains_key(path) || known.log.is_busy());
    for (path, containers) in writers {
        let known = logs.entry(path.clone()).or_insert_with(KnownLog::new);
        let log = known.log.clone();
        if log.is_busy() {
            continue;
        }
        known.writes(&containers);
        if !is_due(&path, &log, limits) {
            continue;
        }
        log.is_busy.store(true, Ordering::Release);
        let task = Task { service: service.clone(), path, containers, busy: Arc::new(Busy(log)) };
        tokio::spawn(task.keep_small(limits));
    }
    true
}

/// The containers by their logs: those that run and whose log no kubelet rotates. Several may have the same one.
fn writers(containers: Vec<Arc<Container>>) -> HashMap<PathBuf, Vec<Arc<Container>>> {
    let mut writers: HashMap<_, Vec<_>> = HashMap::new();
    for container in containers {
        let Some(path) = &container.metadata.log_path else { continue };
        let is_ours = !container.metadata.config.annotations.contains_key(OF_KUBELET);
        if is_ours && container.status().state.pid().is_some() {
            writers.entry(path.clone()).or_default().push(container);
        }
    }
    writers
}

/// Whether a look is needed that may wait for a disk.
fn is_due(path: &Path, log: &Log, limits: Option<LogLimits>) -> bool {
    match (log.mend_at(), limits) {
        (Some(at), _) => at <= Instant::now(),
        (None, Some(limits)) => log_rotate::size_in_cache(path).is_none_or(|size| size >= limits.size),
        (None, None) => false,
    }
}

/// The work on one log.
struct Task {
    service: Arc<ServiceState>,
    path: PathBuf,
    containers: Vec<Arc<Container>>,
    busy: Arc<Busy>,
}

impl Task {
    async fn keep_small(self, limits: Option<LogLimits>) {
        let log = &self.busy.0;
        let done = match (log.mend_at(), limits) {
            (Some(_), _) => self.mend().await,
            (None, Some(limits)) => self.rotate_if_large(limits).await,
            (None, None) => Ok(()),
        };
        log.set_mend_at(done.is_err().then(|| Instant::now() + AGAIN));
        if let Err((container, error)) = done
            && container.status().state.pid().is_some()
        {
            tracing::warn!(container = %container.id(), %error, "a log cannot be rotated, or reopened after it");
        }
    }

    /// Reopens a log whose rotation may not be finished.
    async fn mend(&self) -> Result<(), Failure> {
        if self.stat(log_rotate::was_rotated).await { self.reopen(&self.containers).await } else { Ok(()) }
    }

    async fn rotate_if_large(&self, limits: LogLimits) -> Result<(), Failure> {
        let is_large =
            move |path: &Path| fs::symlink_metadata(path).is_ok_and(|log| log.len() >= limits.size);
        let Some((first, others)) = self.containers.split_first() else { return Ok(()) };
        if !self.stat(is_large).await {
            return Ok(());
        }
        let rotated = log_rotate::rotate(&self.service, first, limits.files, self.busy.clone()).await;
        // Also when it failed: its files may have new names.
        let reopened = self.reopen(others).await;
        rotated.map_err(|error| (first.clone(), error)).and(reopened)
    }

    /// Lets all of them write to the file at the path; returns the first failure.
    async fn reopen(&self, containers: &[Arc<Container>]) -> Result<(), Failure> {
        let mut done = Ok(());
        for container in containers {
            let reopened = log_reopen::reopen_holding(&self.service, container, self.busy.clone()).await;
            done = done.and(reopened.map_err(|error| (container.clone(), error)));
        }
        done
    }

    /// Asks about the path, where that may wait for a disk.
    async fn stat(&self, ask: impl FnOnce(&Path) -> bool + Send + 'static) -> bool {
        let (path, busy) = (self.path.clone(), self.busy.clone());
        let stat = move || {
            let _busy = busy;
            ask(&path)
        };
        tokio::task::spawn_blocking(stat).await.unwrap_or(false)
    }
}
