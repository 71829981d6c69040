//! The systemd cgroup driver: requests one scope for each pod from systemd over D-Bus, in the slice that the
//! client named. The scope is delegated: this server owns the cgroups below it, and systemd never changes
//! them.
//!
//! ```text
//!   kubepods-burstable-pod<uid>.slice     the client's (a kubelet makes it, and limits the pod there)
//!     └─ crisp-<pod>.scope                systemd's; Delegate=yes; made here, removed by systemd when empty
//!          ├─ <pod>                       the monitor
//!          └─ <container> ...             limits are plain writes: no reload of systemd resets them
//!   crisp.slice                           where the client names no slice
//!     └─ crisp-<pod>.scope
//!          └─ pod                         the limits of the pod as a whole
//!               ├─ <pod>, <container> ...
//! ```
//!
//! Why one scope for each pod, not for each container: systemd costs a pod once (a round trip, a job, and the
//! move of a process, for which the kernel waits for an RCU grace period), and a container nothing.
//!
//! A scope begins with a process that systemd moves into it, and ends with its last process. The first
//! process is a [`ScopeHolder`], because the monitor must be *started* in its own cgroup below. Both the
//! scope and the holder end when this server does, so nothing must be undone after a crash.
//!
//! A new connection is made for each scope and closed after it: a restarted systemd or bus is not a special
//! case, and an idle server keeps none open. systemd's own socket is tried first, as in systemctl; then the
//! bus. The kernel's state decides, not a response: a scope counts when its holder is in the pod's cgroup.
//! Units of systemd are never made here, so a pod can never be outside its slice without an error.
//!
//! The few messages are encoded here: zbus would add 22 crates, 2.5 MB of program and 2 MB of memory, for one
//! method call and one signal.

mod bus;
mod error;
mod holder;
mod message;
mod reader;
pub(crate) mod slice;
mod start;
#[cfg(test)]
mod tests;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crisp_executor::cgroup::{CgroupError, CgroupPath, Cgroups, Mode};
use crisp_executor::ids::PodId;
use tokio::net::UnixStream;
use tokio::sync::Semaphore;

pub use self::error::{NoSystemd, SystemdError};
pub(crate) use self::holder::ScopeHolder;
pub use self::slice::{InvalidSlice, is_slice, slice_path};
use self::writer::Value;

/// Exists while systemd is the host's init, see sd_booted(3).
const BOOTED: &str = "/run/systemd/system";
/// The system bus, and systemd's own socket, which needs no bus.
const SYSTEM_BUS: &str = "/run/dbus/system_bus_socket";
const PRIVATE: &str = "/run/systemd/private";
/// systemd's own cgroup, on every host with cgroup v2.
const INIT: &str = "/init.scope";
/// Time limit from the end of a scope's last process to the removal of the scope.
const REMOVAL: Duration = Duration::from_secs(2);
/// Limit for scopes that are made at the same time: a bus allows a user 256 connections.
const STARTS: usize = 32;

/// A host's systemd. Clones share it.
#[derive(Debug, Clone)]
pub struct Systemd {
    /// In the order in which they are tried.
    sockets: Arc<[Socket]>,
    starts: Arc<Semaphore>,
    cgroups: Cgroups,
    deadlines: Deadlines,
}

/// Time limits for systemd.
#[derive(Debug, Clone, Copy)]
struct Deadlines {
    /// For each response: to the handshake, to the call, and the end of the job.
    answer: Duration,
    /// For the whole start of a scope, including the wait for others.
    start: Duration,
}

/// A socket of systemd.
#[derive(Debug, Clone)]
pub(crate) struct Socket {
    path: PathBuf,
    /// Whether it is a bus, not systemd itself.
    is_bus: bool,
}

/// A scope to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Scope {
    pub name: String,
    /// The path of its cgroup.
    pub path: CgroupPath,
    /// The name of its slice.
    pub slice: String,
    pub description: String,
}

impl Systemd {
    /// The systemd of this host, if it can be used for pods.
    ///
    /// # Errors
    /// [`NoSystemd`]: the missing requirement.
    pub async fn detect(cgroups: &Cgroups) -> Result<Self, NoSystemd> {
        if !Path::new(BOOTED).is_dir() {
            return Err(NoSystemd::NotInit { path: BOOTED });
        }
        if cgroups.mode() != Mode::V2 {
            return Err(NoSystemd::NotV2);
        }
        is_in_view(cgroups, &cgroup_of(1), 1)?;
        // systemd's own socket first, as in systemctl for root: it does not depend on a bus.
        let systemd = Self::at(
            vec![
                Socket { path: PRIVATE.into(), is_bus: false },
                Socket { path: SYSTEM_BUS.into(), is_bus: true },
            ],
            cgroups.clone(),
        );
        systemd.reach().await?;
        Ok(systemd)
    }

    fn at(sockets: Vec<Socket>, cgroups: Cgroups) -> Self {
        let deadlines = Deadlines { answer: Duration::from_secs(20), start: Duration::from_secs(60) };
        Self { sockets: sockets.into(), starts: Arc::new(Semaphore::new(STARTS)), cgroups, deadlines }
    }

    /// Checks only that something listens, in this PID namespace: a systemd that is slow now may be fast for
    /// the first pod.
    async fn reach(&self) -> Result<(), NoSystemd> {
        let mut failures = Vec::new();
        for Socket { path, .. } in self.sockets.iter() {
            match tokio::time::timeout(self.deadlines.answer, UnixStream::connect(path)).await {
                // unix(7): the process that listens, by its number here. systemd makes both sockets.
                Ok(Ok(stream)) => match stream.peer_cred().ok().and_then(|peer| peer.pid()) {
                    Some(1..) => return Ok(()),
                    _ => return Err(NoSystemd::OtherPids { socket: path.clone() }),
                },
                Ok(Err(error)) => failures.push(format!("{}: {error}", path.display())),
                Err(_) => failures.push(format!("{}: no answer", path.display())),
            }
        }
        Err(NoSystemd::Unreachable(SystemdError::Connect { failures: failures.join("; ") }))
    }
}

/// The v2 cgroup of a process, as seen in this process's cgroup namespace; see cgroups(7). Empty if there is
/// none.
fn cgroup_of(pid: i32) -> String {
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("0::"));
    line.unwrap_or_default().to_owned()
}

/// Whether the cgroup at the path of `systemd`'s contains it.
fn is_in_view(cgroups: &Cgroups, path: &str, systemd: i32) -> Result<(), NoSystemd> {
    let other = || NoSystemd::OtherTree { expected: INIT, found: path.to_owned() };
    let cgroup = CgroupPath::parse(path).ok().filter(|_| path == INIT).ok_or_else(other)?;
    let pids = cgroups.open(&cgroup).and_then(|cgroup| cgroup.pids()).unwrap_or_default();
    pids.contains(&systemd).then_some(()).ok_or_else(other)
}

/// Ends all processes in the scope and removes the cgroups below it; succeeds if it is gone. systemd removes
/// the scope itself when the kernel reports that it is empty: this waits a short time for that. A scope that
/// systemd does not know would stay forever, and is removed here. Blocks.
///
/// # Errors
/// Processes do not end, or the folder cannot be removed.
#[expect(clippy::disallowed_methods, reason = "this runs on a thread of blocking work")]
pub(crate) fn empty_scope(cgroups: &Cgroups, scope: &CgroupPath) -> Result<(), CgroupError> {
    let begun = Instant::now();
    let mut pause = Duration::from_micros(500);
    loop {
        match cgroups.open(scope) {
            Ok(cgroup) => cgroup.kill()?,
            Err(CgroupError::NotFound { .. }) => return Ok(()),
            Err(error) => return Err(error),
        }
        cgroups.remove_below(scope)?;
        if begun.elapsed() > REMOVAL {
            tracing::warn!(%scope, after = ?REMOVAL, "systemd has not removed an empty scope; removing it");
            return cgroups.remove(scope);
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

impl Scope {
    /// The scope of `pod` at `path`, whose last part is [`slice::scope_name`].
    pub(crate) fn of(pod: &PodId, path: &CgroupPath, description: String) -> Self {
        let slice = path.parent().map(|slice| slice::unit_name(slice.name()).to_owned()).unwrap_or_default();
        Self { name: slice::scope_name(pod), path: path.clone(), slice, description }
    }

    /// See systemd.scope(5), systemd.resource-control(5), systemd.kill(5). `Delegate` enables all controllers
    /// of systemd, so none needs accounting.
    fn properties(&self, pid: i32) -> Vec<(&'static str, Value)> {
        vec![
            ("Description", Value::Text(self.description.clone())),
            ("Slice", Value::Text(self.slice.clone())),
            ("PIDs", Value::Numbers(vec![pid.unsigned_abs()])),
            ("Delegate", Value::Flag(true)),
            // At shutdown kubelet ends its pods in its own order.
            ("DefaultDependencies", Value::Flag(false)),
            // Forgotten even when it failed: no pod's name is used again.
            ("CollectMode", Value::Text("inactive-or-failed".to_owned())),
            // systemd's default is 15 % of the host's limit; only the client limits a pod.
            ("TasksMax", Value::Number(u64::MAX)),
        ]
    }
}
