//! pids: how many processes and threads there may be. The files are the same in v1 and v2.

use super::cached_limits::CachedLimit;
use super::dir::Dir;
use super::error::CgroupError;
use super::stats::PidsStats;

pub(super) fn apply(dir: &Dir, limit: i64) -> Result<(), CgroupError> {
    if limit > 0 { dir.write("pids.max", &limit.to_string()) } else { dir.write("pids.max", "max") }
}

pub(super) fn stats(dir: &Dir, limit: &mut CachedLimit) -> Result<PidsStats, CgroupError> {
    Ok(PidsStats {
        current: dir.read_number("pids.current")?.unwrap_or_default(),
        limit: limit.or_read(dir, "pids.max")?,
    })
}
