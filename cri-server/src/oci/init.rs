//! The first process of a container. Its number may later be used by another process.

use std::fs;
use std::time::Duration;

use rustix::fd::{AsFd, OwnedFd};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::{Deserialize, Serialize};

use super::wait::is_readable_within;

/// A process, identified by its number and its start time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Init {
    pub pid: i32,
    /// Clock ticks since boot: field 22 of proc_pid_stat(5).
    pub start_time: u64,
}

impl Init {
    /// Identifies the process `pid`, whose pidfd is `pidfd`. None when it has ended: its number may be reused.
    pub fn of(pid: i32, pidfd: &impl AsFd) -> Option<Self> {
        let start_time = start_time_of(pid)?;
        let has_ended = is_readable_within(pidfd, Duration::ZERO).unwrap_or(true);
        (!has_ended).then_some(Self { pid, start_time })
    }

    /// Opens its pidfd. None when it has ended, even if it has not been reaped.
    pub fn open(self) -> Option<OwnedFd> {
        let pidfd = pidfd_open(Pid::from_raw(self.pid)?, PidfdFlags::empty()).ok()?;
        // Read after the pidfd is open: it describes the process of the pidfd or a later one.
        let start_time = start_time_of(self.pid)?;
        // The pidfd, unlike the state in /proc, is of all threads and not of the first one alone.
        let has_ended = is_readable_within(&pidfd, Duration::ZERO).unwrap_or(true);
        (start_time == self.start_time && !has_ended).then_some(pidfd)
    }
}

fn start_time_of(pid: i32) -> Option<u64> {
    parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// The name of the program is in parentheses and may contain any character.
fn parse(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(") ")?;
    rest.split(' ').nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use crisp_skip::needs;

    use super::*;

    #[test]
    fn a_name_with_brackets_does_not_confuse() {
        let text = "12 (a) Z 1 (b) S 1 12 12 0 -1 4194560 8 0 0 0 0 0 0 0 20 0 1 0 4711 0 0";
        assert_eq!(parse(text), Some(4711));
        assert_eq!(parse("12 (a"), None);
    }

    #[test]
    fn this_process_lives_and_another_start_is_another_process() {
        let pid = std::process::id().cast_signed();
        let pidfd = pidfd_open(Pid::from_raw(pid).unwrap(), PidfdFlags::empty()).unwrap();
        let own = Init::of(pid, &pidfd).unwrap();
        assert!(own.open().is_some());
        assert!(Init { start_time: own.start_time + 1, ..own }.open().is_none());
    }

    #[test]
    fn a_process_lives_while_one_of_its_threads_does() {
        needs!("perl");
        // Ends its first thread alone.
        let exit = if cfg!(target_arch = "x86_64") { 60 } else { 93 };
        let script =
            format!("use threads; threads->create(sub {{ sleep 1000 }})->detach; syscall({exit}, 0);");
        let mut process = std::process::Command::new("perl").args(["-e", &script]).spawn().unwrap();
        let pid = process.id().cast_signed();
        let stat = || fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let begun = std::time::Instant::now();
        while !stat().contains(") Z ") {
            assert!(begun.elapsed() < Duration::from_secs(30), "{}", stat());
            std::thread::sleep(Duration::from_millis(5));
        }
        let init = Init { pid, start_time: start_time_of(pid).unwrap() };
        assert!(init.open().is_some());
        process.kill().unwrap();
        process.wait().unwrap();
        assert!(init.open().is_none());
    }

    #[test]
    fn a_number_is_not_taken_from_the_next_process_that_has_it() {
        let mut ended = std::process::Command::new("true").spawn().unwrap();
        let pidfd = pidfd_open(Pid::from_child(&ended), PidfdFlags::empty()).unwrap();
        ended.wait().unwrap();
        // As if this process had got the number.
        assert_eq!(Init::of(std::process::id().cast_signed(), &pidfd), None);
    }
}
