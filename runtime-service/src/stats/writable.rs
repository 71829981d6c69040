//! The disk usage of a container: the size of its overlay's upper layer.
//!
//! Counting means walking all of it, so it is done seldom and within a budget.

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crisp_operation::clock;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags};

/// The validity of a count.
const FRESH: Duration = Duration::from_secs(10);
/// Limit for entries in one walk. For a larger layer the result is the count so far: a lower bound, but
/// bounded work.
const BUDGET: u64 = 500_000;
/// Limit for the bytes of paths of folders that are still to be read: names come from the container.
const MAX_WAITING: usize = 16 << 20;

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
pub struct Writable(Mutex<Count>);

#[derive(Debug, Default)]
struct Count {
    latest: Option<(Usage, Instant)>,
    /// A thread walks, or will start soon.
    under_way: bool,
}

impl Writable {
    fn lock(&self) -> MutexGuard<'_, Count> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn latest(&self) -> Option<Usage> {
        self.lock().latest.map(|(usage, _)| usage)
    }

    /// Returns true when the count is stale; the caller must renew it then.
    pub fn claim(&self) -> bool {
        let mut count = self.lock();
        let fresh = count.latest.is_some_and(|(_, at)| at.elapsed() < FRESH);
        let claimed = !fresh && !count.under_way;
        count.under_way |= claimed;
        claimed
    }

    pub fn renew(&self, upper: &Path) {
        let usage = walk(upper, BUDGET);
        *self.lock() = Count { latest: Some((usage, Instant::now())), under_way: false };
    }
}

/// Files that vanish meanwhile are not counted. A file with several names counts once per name: to count it
/// once would need memory for all of them. The container may replace folders with symbolic links during the
/// walk; none is followed.
fn walk(root: &Path, budget: u64) -> Usage {
    let mut usage = Usage { at: clock::now(), ..Usage::default() };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let Ok(root) = rustix::fs::open(root, flags, Mode::empty()) else { return usage };
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    let mut folders = vec![Vec::from(b".")];
    let mut waiting = 0;
    while let Some(path) = folders.pop() {
        waiting -= path.len().min(waiting);
        let Ok(folder) = rustix::fs::openat2(&root, &path[..], flags, Mode::empty(), resolve) else {
            continue;
        };
        let Ok(entries) = Dir::read_from(&folder) else { continue };
        for entry in entries.flatten() {
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            if usage.inodes >= budget || waiting > MAX_WAITING {
                return usage;
            }
            let Ok(stat) = rustix::fs::statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
            usage.inodes += 1;
            usage.bytes += u64::try_from(stat.st_blocks).unwrap_or_default() * 512;
            if FileType::from_raw_mode(stat.st_mode).is_dir() {
                let path = [&path[..], b"/", name.to_bytes()].concat();
                waiting += path.len();
                folders.push(path);
            }
        }
    }
    usage
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_walk_follows_no_link_out_of_the_layer() {
        let (dir, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(outside.path().join("secret"), vec![1u8; 100_000]).unwrap();
        std::os::unix::fs::symlink(outside.path(), dir.path().join("link")).unwrap();
        assert_eq!(walk(dir.path(), BUDGET).inodes, 1, "the link itself");
        assert_eq!(walk(&dir.path().join("link"), BUDGET).inodes, 0, "not even as the root");
    }

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

    #[test]
    fn a_count_is_claimed_once_and_stays_fresh() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a"), "x").unwrap();
        let writable = Writable::default();
        assert!(writable.claim() && !writable.claim(), "one walk at a time");
        writable.renew(dir.path());
        assert_eq!(writable.latest().map(|usage| usage.inodes), Some(1));
        assert!(!writable.claim(), "still fresh");
    }
}
