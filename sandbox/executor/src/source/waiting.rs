//! Which host paths threads are blocked on, and which of those requests have been given up.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

static ALL: Mutex<Vec<Entry>> = Mutex::new(Vec::new());

struct Entry {
    number: u64,
    path: PathBuf,
    since: Instant,
    /// From then on the request has been given up.
    deadline: Instant,
}

/// A thread's wait for a path; ends when dropped.
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

/// How long a given-up request for this very path has been waiting.
pub(super) fn stuck_for(path: &Path) -> Option<Duration> {
    let now = Instant::now();
    let all = all();
    let stuck = all.iter().find(|entry| entry.path == path && entry.deadline < now);
    stuck.map(|entry| now - entry.since)
}

/// How many threads wait for a host path although their request has been given up.
#[must_use]
pub fn stuck() -> usize {
    let now = Instant::now();
    all().iter().filter(|entry| entry.deadline < now).count()
}

fn all() -> MutexGuard<'static, Vec<Entry>> {
    ALL.lock().unwrap_or_else(PoisonError::into_inner)
}
