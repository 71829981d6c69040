//! An additional process in a container. It belongs to the connection that requested it.
//!
//! ```text
//!  runs --connection over--> SIGHUP --grace--> all in its cgroup are killed
//!    |                          |                  ^
//!    +--ended--> gone           +--ended--> Orphans+   its remaining processes have the same time
//! ```

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

/// The processes of execs whose connection has ended.
pub(crate) struct Orphans {
    pub(crate) cgroup: OwnedFd,
    pub(crate) kill_at: Instant,
}

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

    /// Handles its end.
    pub(crate) fn orphans(self) -> Option<Orphans> {
        Some(Orphans { cgroup: self.cgroup?, kill_at: self.kill_at? })
    }
}

impl Orphans {
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
