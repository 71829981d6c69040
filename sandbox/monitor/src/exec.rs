//! An additional process in a container. It belongs to the connection that requested it.
//!
//! ```text
//!  runs --SIGHUP of its server, or end of the connection--> has had SIGHUP --ends--> Leftover
//!    +--ends--> gone                                             |                      |
//!                                     grace time after the connection's end: its cgroup is killed
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
    /// It has got SIGHUP, or gets it from its terminal. It must get it once: a second one may end its handler.
    pub(crate) has_hup: bool,
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
pub(crate) struct Leftover {
    pub(crate) exec: u64,
    pub(crate) connection: Key,
    grace: Duration,
    cgroup: OwnedFd,
    /// None while the connection lasts.
    pub(crate) kill_at: Option<Instant>,
}

impl Exec {
    pub(crate) fn kill_group(&mut self) {
        let _ = self.process.signal_group(Signal::KILL);
        let _ = self.process.signal(Signal::KILL);
    }

    /// Kills it and all processes that it started. It has no cgroup afterwards, so it leaves nothing to be killed.
    ///
    /// No later exec may use its cgroup: since Linux 6.14 it would be killed too.
    pub(crate) fn kill_all(&mut self) {
        self.kill_group();
        self.cgroup.take().iter().for_each(kill_cgroup);
    }

    /// Handles its server's request to kill it: after SIGHUP it is the end of all processes that it started.
    pub(crate) fn kill_as_requested(&mut self) {
        if self.has_hup { self.kill_all() } else { self.kill_group() }
    }

    pub(crate) fn connection_ended(&mut self, now: Instant) {
        if self.grace.is_zero() || self.launch.is_some() {
            self.kill_all();
            return;
        }
        // A server that is gone has closed the terminal: then the kernel sends SIGHUP.
        if !self.has_hup && !self.has_terminal {
            let _ = self.process.signal_group(Signal::HUP);
        }
        self.has_hup = true;
        self.kill_at = Some(now + self.grace);
    }

    /// See [`Launch::read_at`].
    pub(crate) fn read_at(&self) -> Option<Instant> {
        self.launch.as_ref()?.read_at
    }

    /// Handles its end.
    pub(crate) fn leftover(self) -> Option<Leftover> {
        let Self { id: exec, connection, grace, kill_at, has_hup, cgroup, .. } = self;
        Some(Leftover { exec, connection, grace, cgroup: cgroup.filter(|_| has_hup)?, kill_at })
    }
}

impl Leftover {
    pub(crate) fn connection_ended(&mut self, now: Instant) {
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
