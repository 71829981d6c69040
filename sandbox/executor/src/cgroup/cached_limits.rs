//! Limits from an earlier reading of the same cgroup, which need not be read again.

use super::dir::{Dir, limited};
use super::error::CgroupError;

/// Limits, and a count that does not change without one.
#[derive(Debug, Default)]
pub(super) struct CachedLimits {
    pub memory: CachedLimit,
    /// On v1 that of memory and swap together.
    pub swap: CachedLimit,
    pub pids: CachedLimit,
    /// On v1, while there is no limit of memory.
    pub limit_hits: Option<u64>,
}

/// None before the first reading; then the limit, which may be none.
#[derive(Debug, Default)]
pub(super) struct CachedLimit(Option<Option<u64>>);

impl CachedLimit {
    /// The known limit, or that in `file`.
    pub(super) fn or_read(&mut self, dir: &Dir, file: &'static str) -> Result<Option<u64>, CgroupError> {
        if let Some(known) = self.0 {
            return Ok(known);
        }
        let limit = dir.read_limit(file)?.flatten();
        self.0 = Some(limit);
        Ok(limit)
    }

    /// Like [`or_read`](Self::or_read), for a limit that other programs may have changed. `lowest` is the lowest
    /// limit of the cgroup and those above it: without any it has none, and one that is the lowest as before
    /// is the same as before.
    pub(super) fn at_least(
        &mut self,
        lowest: Option<u64>,
        dir: &Dir,
        file: &'static str,
    ) -> Result<Option<u64>, CgroupError> {
        let is_same = match (lowest.map(limited), self.0) {
            (Some(None), _) => {
                self.0 = Some(None);
                true
            }
            (Some(lowest), Some(known)) => lowest == known,
            _ => false,
        };
        if !is_same {
            self.0 = None;
        }
        self.or_read(dir, file)
    }
}
