//! What a container has written: the size of its overlay's upper side.
//!
//! Counting means walking, so it is done beside the request, seldom, and within a budget.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::clock;

/// How long a count is good for.
const FRESH: Duration = Duration::from_secs(10);
/// How long the first request waits for the first count.
const PATIENCE: Duration = Duration::from_millis(50);
/// Entries counted in one walk. A layer with more is answered with what was counted: a lower bound,
/// but bounded work.
const BUDGET: u64 = 500_000;

/// One count.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Nanoseconds since 1970.
    pub at: i64,
    /// Allocated, as du(1) counts.
    pub bytes: u64,
    pub inodes: u64,
}

/// The count of one container, kept between requests.
#[derive(Debug, Default)]
pub struct Writable {
    inner: Arc<Mutex<Kept>>,
}

#[derive(Debug, Default)]
struct Kept {
    count: Option<(Usage, Instant)>,
    walking: bool,
}

impl Writable {
    /// The latest count; a stale one is renewed in the background. None: not counted yet.
    pub async fn usage(&self, upper: &Path) -> Option<Usage> {
        if let Some(walk) = self.renew(upper.to_owned()) {
            let first = self.latest().is_none();
            if first {
                tokio::time::timeout(PATIENCE, walk).await.ok();
            }
        }
        self.latest()
    }

    fn latest(&self) -> Option<Usage> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).count.map(|(usage, _)| usage)
    }

    fn renew(&self, upper: PathBuf) -> Option<tokio::task::JoinHandle<()>> {
        let mut kept = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = kept.count.is_some_and(|(_, at)| at.elapsed() < FRESH);
        if fresh || kept.walking {
            return None;
        }
        kept.walking = true;
        let inner = self.inner.clone();
        Some(tokio::task::spawn_blocking(move || {
            let usage = walk(&upper, BUDGET);
            let mut kept = inner.lock().unwrap_or_else(PoisonError::into_inner);
            *kept = Kept { count: Some((usage, Instant::now())), walking: false };
        }))
    }
}

/// Files that vanish meanwhile are not counted. A file with several names counts once per name:
/// telling them apart would need a memory of all.
fn walk(root: &Path, budget: u64) -> Usage {
    let mut usage = Usage { at: clock::now(), ..Usage::default() };
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for entry in entries.flatten() {
            if usage.inodes >= budget {
                return usage;
            }
            let Ok(metadata) = fs::symlink_metadata(entry.path()) else { continue };
            usage.inodes += 1;
            usage.bytes += metadata.blocks() * 512;
            if metadata.is_dir() {
                folders.push(entry.path());
            }
        }
    }
    usage
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_walk_counts_all_and_stops_at_its_budget() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("sub")).unwrap();
        fs::write(dir.path().join("sub/big"), vec![1u8; 100_000]).unwrap();
        fs::write(dir.path().join("small"), "x").unwrap();
        let usage = walk(dir.path(), BUDGET);
        assert_eq!(usage.inodes, 3);
        assert!(usage.bytes >= 100_000, "{usage:?}");
        assert_eq!(walk(dir.path(), 2).inodes, 2);
    }

    #[tokio::test]
    async fn the_first_request_gets_a_count() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a"), "x").unwrap();
        let writable = Writable::default();
        assert_eq!(writable.usage(dir.path()).await.map(|u| u.inodes), Some(1));
        fs::write(dir.path().join("b"), "x").unwrap();
        assert_eq!(writable.usage(dir.path()).await.map(|u| u.inodes), Some(1), "still fresh");
    }
}
