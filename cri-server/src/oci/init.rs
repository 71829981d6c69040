//! The first process of a container. Its number may later be used by another process.

use std::fs;

use rustix::fd::OwnedFd;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::{Deserialize, Serialize};

/// A process, identified by its number and its start time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Init {
    pub pid: i32,
    /// Clock ticks since boot: field 22 of proc_pid_stat(5).
    pub start_time: u64,
}

impl Init {
    /// Identifies a running process. None when it has ended.
    pub fn of(pid: i32) -> Option<Self> {
        let (_, start_time) = state_and_start(pid)?;
        Some(Self { pid, start_time })
    }

    /// Opens its pidfd. None when it has ended, even if it has not been reaped.
    pub fn open(self) -> Option<OwnedFd> {
        let pidfd = pidfd_open(Pid::from_raw(self.pid)?, PidfdFlags::empty()).ok()?;
        // Read after the pidfd is open: it describes the process of the pidfd or a later one.
        let (state, start_time) = state_and_start(self.pid)?;
        (start_time == self.start_time && !matches!(state, 'Z' | 'X')).then_some(pidfd)
    }
}

fn state_and_start(pid: i32) -> Option<(char, u64)> {
    parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// The name of the program is in parentheses and may contain any character.
fn parse(stat: &str) -> Option<(char, u64)> {
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut fields = rest.split(' ');
    let state = fields.next()?.chars().next()?;
    Some((state, fields.nth(18)?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_brackets_does_not_confuse() {
        let text = "12 (a) Z 1 (b) S 1 12 12 0 -1 4194560 8 0 0 0 0 0 0 0 20 0 1 0 4711 0 0";
        assert_eq!(parse(text), Some(('S', 4711)));
        assert_eq!(parse("12 (a"), None);
    }

    #[test]
    fn this_process_lives_and_another_start_is_another_process() {
        let own = Init::of(std::process::id().cast_signed()).unwrap();
        assert!(own.open().is_some());
        assert!(Init { start_time: own.start_time + 1, ..own }.open().is_none());
    }
}
