//! The clock: a wrong one breaks TLS and falsifies the times in statuses and logs.

use std::path::Path;
use std::time::{Duration, SystemTime};

use super::Check;
use crate::config::Settings;
use crate::server::layout;
use crate::time;

/// How far files on disk may be ahead of the clock.
const TOLERATED: Duration = Duration::from_secs(60);
/// A time before this program existed: 2026-01-01.
const PAST: Duration = Duration::from_secs(1_767_225_600);

pub fn checks(settings: &Settings) -> Vec<Check> {
    let written =
        [&settings.root.value, &settings.state.value].into_iter().filter_map(|folder| last_write(folder));
    vec![clock(SystemTime::now(), written.max())]
}

/// The time at which a server last took the folder.
fn last_write(folder: &Path) -> Option<SystemTime> {
    layout::lock(folder).metadata().ok()?.modified().ok()
}

fn clock(now: SystemTime, written: Option<SystemTime>) -> Check {
    let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let shown = time::shown(i64::try_from(since.as_nanos()).unwrap_or(i64::MAX));
    if since < PAST {
        return Check::failed("clock", format!("{shown}: certificates are not valid yet; is there NTP?"));
    }
    match written.and_then(|written| written.duration_since(now).ok()).filter(|ahead| *ahead > TOLERATED) {
        Some(ahead) => {
            let text =
                format!("{shown}: {} s before a server wrote to its folder; it went back", ahead.as_secs());
            Check::failed("clock", text)
        }
        None => Check::good("clock", shown),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Outcome;
    use super::*;

    #[test]
    fn a_clock_that_is_wrong_is_found() {
        let now = SystemTime::UNIX_EPOCH + PAST + Duration::from_secs(10);
        assert_eq!(clock(now, None).outcome, Outcome::Good);
        assert_eq!(clock(now, Some(now - TOLERATED)).outcome, Outcome::Good);
        assert_eq!(clock(now, Some(now + 2 * TOLERATED)).outcome, Outcome::Failed);
        assert_eq!(clock(SystemTime::UNIX_EPOCH, None).outcome, Outcome::Failed);
    }
}
