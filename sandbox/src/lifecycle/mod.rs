//! What is done to pods, one operation per file. Undoing a failed start, stopping and cleaning up
//! after a crash are the same [`teardown`], which works from the record alone and can be repeated.

pub(crate) mod recover;
pub(crate) mod remove;
pub(crate) mod run;
pub(crate) mod stop;
pub(crate) mod teardown;
pub(crate) mod watch;

use std::time::{SystemTime, UNIX_EPOCH};

/// Nanoseconds since 1970.
pub(crate) fn now() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| i64::try_from(d.as_nanos()).unwrap_or(i64::MAX))
}
