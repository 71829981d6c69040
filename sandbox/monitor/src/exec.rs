//! An additional process in a container. It belongs to the connection that requested it.
//!
//! ```text
//!  runs --connection over, or server--> SIGHUP --connection over--> grace --> all in its cgroup are killed
//!    |                                    |                          |         ^
//!    +--ended--> gone                     +--ended--> Orphans ───────+─────────+   they have the same time
//! ```
//!
//! While its connection lasts, a server that has sent SIGHUP also ends what is left after it. Such a server may be
//! killed meanwhile.

use std::time::{Duration, Instant};

use crisp_executor::ids::ContainerId;
use crisp_monitor::wire::response::Started;
use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags, openat};
use rustix::process::Signal;

use crate::child::Child;
use crate::launch::{Launch, Requester};
use crate::poller::Key;

pub(crate) struct Exec {
    /// The id that the client chose.
    pub(crate) id: u64,
    pub(crate) connection: Key,
    pub(crate) container: ContainerId,
    pub(crate) process: Child,
    /// Set until its exec.
    pub(crate) launch: Option<Launch>,
    /// How long it may live after its connection's end.
    pub(crate) grace: Duration,
    /// Its v2 cgroup.
    pub(crate) cgroup: Option<OwnedFd>,
    pub(crate) has_terminal: bool,
    /// It has had its SIGHUP: another one would end what it does about the first.
    pub(crate) is_hung_up: bool,
    /// Set at its connection's end.
    pub(crate) kill_at: Option<Instant>,
    pub(crate) response: Response,
}

/// The response to the request for an exec.
pub(crate) enum Response {
    /// After its exec; `late`: it may be delayed until this time.
    Due {
        late: Option<Instant>,
    },
    /// Delayed until its end, or this time.
    Late {
        to: Requester,
        started: Started,
        at: Instant,
    },
    Sent,
}

impl Response {
    pub(crate) fn take_late(&mut self) -> Option<(Requester, Started)> {
        match std::mem::replace(self, Self::Sent) {
            Self::Late { to, started, .. } => Some((to, started)),
            other => {
                *self = other;
                None
            }
        }
    }

    pub(crate) fn at(&self) -> Option<Instant> {
        if let Self::Late { at, .. } = self { Some(*at) } else { None }
    }
}

/// The processes that an exec has left in its cgroup, when it has ended after its SIGHUP.
pub(crate) struct Orphans {
    pub(crate) exec: u64,
    pub(crate) connection: Key,
    grace: Duration,
    cgroup: OwnedFd,
    /// None while the connection lasts.
    pub(crate) kill_at: Option<Instant>,
    /// Set for what a terminal's program has left, which may be a daemon: it is forgotten at this time, unless the
    /// connection has ended before. Then a dying server hung up the terminal.
    pub(crate) forget_at: Option<Instant>,
}

/// Longest time from the hang-up of a terminal to the end of the connection when a server dies.
const DYING: Duration = Duration::from_secs(2);

impl Exec {
    pub(crate) fn kill(&mut self) {
        let _ = self.process.signal_group(Signal::KILL);
        let _ = self.process.signal(Signal::KILL);
    }

    /// Handles the end of its connection.
    pub(crate) fn hang_up(&mut self, now: Instant) {
        if self.grace.is_zero() || self.launch.is_some() {
            self.kill_all();
        } else {
            if !self.is_hung_up {
                let _ = self.process.signal_group(Signal::HUP);
            }
            self.kill_at = Some(now + self.grace);
        }
    }

    /// See [`Launch::read_at`].
    pub(crate) fn read_at(&self) -> Option<Instant> {
        self.launch.as_ref()?.read_at
    }

    /// Kills it and all processes that it started. No later exec may use its cgroup: since Linux 6.14 it
    /// would be killed too.
    pub(crate) fn kill_all(&mut self) {
        self.kill();
        self.cgroup.iter().for_each(kill_cgroup);
    }

    /// Handles its server's request to kill it: after SIGHUP it is the end of all processes that it started.
    pub(crate) fn kill_as_requested(&mut self) {
        self.kill();
        if self.is_hung_up {
            // Without its cgroup it leaves no orphans, which would be kept to the end of the connection.
            self.cgroup.take().iter().for_each(kill_cgroup);
        }
    }

    /// Handles its end.
    pub(crate) fn orphans(self, now: Instant) -> Option<Orphans> {
        let Self { id: exec, connection, grace, kill_at, is_hung_up, cgroup, has_terminal, .. } = self;
        let is_known = is_hung_up || kill_at.is_some();
        let cgroup = cgroup.filter(|_| is_known || (has_terminal && !grace.is_zero()))?;
        let forget_at = (!is_known).then(|| now + DYING);
        Some(Orphans { exec, connection, grace, cgroup, kill_at, forget_at })
    }
}

impl Orphans {
    /// Whether its command has got SIGHUP for sure. Otherwise another command may use the cgroup by now.
    pub(crate) fn is_hung_up(&self) -> bool {
        self.forget_at.is_none()
    }

    /// Handles the end of the connection.
    pub(crate) fn hang_up(&mut self, now: Instant) {
        self.forget_at = None;
        self.kill_at.get_or_insert(now + self.grace);
    }

    pub(crate) fn kill(self) {
        kill_cgroup(&self.cgroup);
    }
}

/// Needs Linux 5.14.
pub(crate) fn kill_cgroup(cgroup: &OwnedFd) {
    let flags = OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    if let Ok(file) = openat(cgroup, c"cgroup.kill", flags, Mode::empty()) {
        let _ = rustix::io::write(&file, b"1");
    }
}
