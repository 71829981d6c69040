//! The host paths that threads wait for, and the requests among them that have been abandoned.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

static ALL: Mutex<Vec<Entry>> = Mutex::new(Vec::new());

struct Entry {
    number: u64,
    path: PathBuf,
    since: Instant,
    /// After this time the request has been abandoned.
    deadline: Instant,
}

/// A thread's wait for a path; it ends when this is dropped.
pub(super) struct Waiting(u64);

impl Waiting {
    pub(super) fn new(path: &Path, deadline: Instant) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        all().push(Entry { number, path: path.to_owned(), since: Instant::now(), deadline });
        Self(number)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        all().retain(|entry| entry.number != self.0);
    }
}

/// How long an abandoned request for this path has been waiting.
pub(super) fn stuck_for(path: &Path) -> Option<Duration> {
    let now = Instant::now();
    let all = all();
    let stuck = all.iter().find(|entry| entry.path == path && entry.deadline < now);
    stuck.map(|entry| now - entry.since)
}

/// The number of threads that wait for a host path although their request has been abandoned.
#[must_use]
pub fn stuck() -> usize {
    let now = Instant::now();
    all().iter().filter(|entry| entry.deadline < now).count()
}

fn all() -> MutexGuard<'static, Vec<Entry>> {
    ALL.lock().unwrap_or_else(PoisonError::into_inner)
}
