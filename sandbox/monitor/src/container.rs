//! One container in its monitor.
//!
//! ```text
//!  Starting --exec'd--> Running --reaped--> Ending --output drained--> Exited --forget--> gone
//!     |                                       (event, exit record at the end of Ending)
//!     +--stage failed, reaped--> gone
//! ```

use std::time::{Duration, Instant};

use crisp_executor::ids::ContainerId;
use crisp_monitor::wire::response::{ContainerReport, ContainerState};
use crisp_monitor::wire::{Exit, ExitStatus};
use rustix::fd::{AsFd, OwnedFd};
use rustix::io::Errno;
use rustix::process::Signal;
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer};

use crate::child::Child;
use crate::clients::Clients;
use crate::exec::kill_cgroup;
use crate::launch::Launch;
use crate::log::{Log, Stream};

/// How long the output must be silent after a container's end, while a process outside of its PID namespace
/// still has the pipe.
const QUIET: Duration = Duration::from_millis(100);
/// Limit for the delay of an exit by output.
const LATEST: Duration = Duration::from_secs(2);

pub(crate) struct Container {
    pub(crate) id: ContainerId,
    pub(crate) process: Child,
    pub(crate) phase: Phase,
    pub(crate) started_at_ns: i64,
    pub(crate) terminal: Option<Terminal>,
    pub(crate) stdin: Option<OwnedFd>,
    /// Whether stdin must be kept, for a terminal that does not exist yet.
    pub(crate) keep_stdin: bool,
    /// Whether stdin ends with its first client.
    pub(crate) stdin_once: bool,
    pub(crate) outputs: [Option<Output>; 2],
    pub(crate) log: Log,
    pub(crate) cgroup: Option<OwnedFd>,
    pub(crate) oom_events: Option<OwnedFd>,
}

pub(crate) enum Phase {
    Starting(Launch),
    Running,
    Ending { exit: Exit, since: Instant, last_output: Instant },
    Exited(Exit),
}

/// The monitor's end of one of a container's outputs.
pub(crate) struct Output {
    pub(crate) source: OwnedFd,
    /// Whether it is polled; not while the log is blocked.
    pub(crate) polled: bool,
    /// Clients that receive a copy.
    pub(crate) clients: Clients,
}

/// A container's terminal.
pub(crate) struct Terminal {
    pub(crate) master: OwnedFd,
    /// Keeps the master readable while no process of the container has the terminal open, for example after
    /// an init has closed its console and before it opens it again. Dropped at the container's end.
    slave: Option<OwnedFd>,
}

impl Terminal {
    pub(crate) fn new(master: OwnedFd) -> Self {
        let mut terminal = Self { master, slave: None };
        terminal.hold();
        terminal
    }

    /// Whether the slave could be opened.
    pub(crate) fn hold(&mut self) -> bool {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let slave = ioctl_tiocgptpeer(&self.master, flags).ok();
        let held = slave.is_some();
        self.slave = slave.or(self.slave.take());
        held
    }
}

impl Output {
    pub(crate) fn new(source: OwnedFd) -> Self {
        Self { source, polled: false, clients: Clients::default() }
    }
}

impl Container {
    /// Whether one of its processes may be alive.
    pub(crate) fn is_alive(&self) -> bool {
        matches!(self.phase, Phase::Starting(_) | Phase::Running)
    }

    /// Whether its exit has not been sent to the clients yet.
    pub(crate) fn is_ongoing(&self) -> bool {
        !matches!(self.phase, Phase::Exited(_))
    }

    pub(crate) fn signal(&mut self, signal: Signal, group: bool) -> Result<(), Errno> {
        if group {
            let _ = self.process.signal_group(signal);
        }
        if group && signal == Signal::KILL {
            self.cgroup.iter().for_each(kill_cgroup);
        }
        self.process.signal(signal)
    }

    /// Records that its first process was reaped.
    pub(crate) fn ended(&mut self, status: ExitStatus, finished_at_ns: i64) {
        let oom = self.oom_events.take().is_some_and(|file| saw_oom_kill(&file));
        if let Some(terminal) = &mut self.terminal {
            terminal.slave = None;
        }
        let now = Instant::now();
        let exit = Exit { status, oom, finished_at_ns };
        self.phase = Phase::Ending { exit, since: now, last_output: now };
    }

    pub(crate) fn has_output(&self) -> bool {
        self.outputs.iter().any(Option::is_some)
    }

    /// The time at which an ending container's exit is announced although a process may still write.
    pub(crate) fn announce_at(&self) -> Option<Instant> {
        match &self.phase {
            Phase::Ending { since, last_output, .. } if self.log.blocked() => {
                Some((*since).max(*last_output) + LATEST)
            }
            Phase::Ending { since, .. } if self.clients_retry_at().is_some() => Some(*since + LATEST),
            Phase::Ending { since, last_output, .. } => Some((*last_output + QUIET).min(*since + LATEST)),
            Phase::Starting(_) | Phase::Running | Phase::Exited(_) => None,
        }
    }

    /// Whether an ended container only waits for a log that cannot be written.
    pub(crate) fn holds_back_output(&self) -> bool {
        self.log.blocked()
    }

    /// The time at which clients with full pipes are tried again.
    pub(crate) fn clients_retry_at(&self) -> Option<Instant> {
        self.outputs.iter().flatten().filter_map(|output| output.clients.retry_at()).min()
    }

    pub(crate) fn output_seen(&mut self) {
        if let Phase::Ending { last_output, .. } = &mut self.phase {
            *last_output = Instant::now();
        }
    }

    pub(crate) fn output(&mut self, stream: Stream) -> Option<&mut Output> {
        self.outputs[stream as usize].as_mut()
    }

    pub(crate) fn report(&self, execs: u32) -> ContainerReport {
        ContainerReport {
            id: self.id.clone(),
            pid: self.process.pid(),
            state: match &self.phase {
                Phase::Starting(_) => ContainerState::Starting,
                Phase::Running | Phase::Ending { .. } => ContainerState::Running,
                Phase::Exited(exit) => ContainerState::Exited(*exit),
            },
            started_at_ns: self.started_at_ns,
            terminal: self.terminal.is_some(),
            execs,
            log: self.log.report(),
        }
    }
}

/// `memory.events` (v2) and `memory.oom_control` (v1) have the same line.
fn saw_oom_kill(file: &OwnedFd) -> bool {
    let mut text = [0; 512];
    let Ok(got) = rustix::io::pread(file.as_fd(), &mut text[..], 0) else { return false };
    counts_oom_kill(&text[..got])
}

fn counts_oom_kill(text: &[u8]) -> bool {
    let count = text.split(|&b| b == b'\n').find_map(|line| line.strip_prefix(b"oom_kill "));
    count.is_some_and(|count| count.iter().any(|b| (b'1'..=b'9').contains(b)))
}

#[cfg(test)]
mod tests {
    use super::counts_oom_kill;

    #[test]
    fn oom_kills_of_both_cgroup_versions() {
        assert!(counts_oom_kill(b"low 0\nhigh 0\nmax 31\noom 1\noom_kill 10\noom_group_kill 0\n"));
        assert!(!counts_oom_kill(b"low 0\nhigh 0\nmax 31\noom 1\noom_kill 0\noom_group_kill 1\n"));
        assert!(counts_oom_kill(b"oom_kill_disable 0\nunder_oom 0\noom_kill 1\n"));
        assert!(!counts_oom_kill(b"oom_kill_disable 1\nunder_oom 0\noom_kill 0\n"));
        assert!(!counts_oom_kill(b""));
    }
}
