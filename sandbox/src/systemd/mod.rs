//! The systemd cgroup driver: systemd is asked, over D-Bus, for one scope for each pod, in the slice that the
//! client named. The scope is delegated: what is below it is this server's, and systemd never touches it.
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
//! A scope begins with a process that systemd moves into it, and ends with its last one. The first is a
//! [`ScopeHolder`], since the monitor has to be *born* in its own cgroup below. Both the scope and the holder
//! end by themselves when this server does, so nothing has to be found and undone after a crash.
//!
//! The connection is made for each scope and closed after it: a systemd or a bus that was restarted meanwhile
//! is no special case, and an idle server holds nothing. systemd's own socket comes first, as for systemctl; the
//! bus where that is of no use. What the kernel says decides, not an answer: a scope counts when its holder is
//! in the cgroup where the pod is to be, and nothing of systemd's is ever made here, so that no pod can be
//! outside its slice without an error.
//!
//! The few messages are read and written here: zbus brings 22 crates more, 2.5 MB of program and 2 MB of memory,
//! for one method call and one signal.

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

/// There while systemd is the host's init, see sd_booted(3).
const BOOTED: &str = "/run/systemd/system";
/// The system bus, and systemd's own socket, which does without a bus.
const SYSTEM_BUS: &str = "/run/dbus/system_bus_socket";
const PRIVATE: &str = "/run/systemd/private";
/// systemd's own cgroup, on every host with cgroup v2.
const INIT: &str = "/init.scope";
/// From the end of a scope's last process to its own.
const REMOVAL: Duration = Duration::from_secs(2);
/// Scopes that are made at once: a bus allows a user 256 connections.
const STARTS: usize = 32;

/// A host's systemd. Clones are the same one.
#[derive(Debug, Clone)]
pub struct Systemd {
    /// In the order in which they are tried.
    sockets: Arc<[Socket]>,
    starts: Arc<Semaphore>,
    cgroups: Cgroups,
    deadlines: Deadlines,
}

/// How long systemd is waited for.
#[derive(Debug, Clone, Copy)]
struct Deadlines {
    /// For each answer: to the handshake, to the call, and the end of the job.
    answer: Duration,
    /// For all that starts a scope, the wait for others included.
    start: Duration,
}

/// Where systemd is reached.
#[derive(Debug, Clone)]
pub(crate) struct Socket {
    path: PathBuf,
    /// A bus that has systemd among others, not systemd itself.
    is_bus: bool,
}

/// A scope to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Scope {
    pub name: String,
    /// Where it is to be.
    pub path: CgroupPath,
    /// The name of the slice that it is in.
    pub slice: String,
    pub description: String,
}

impl Systemd {
    /// This host's systemd, where pods can be given to it.
    ///
    /// # Errors
    /// [`NoSystemd`]: what is missing.
    pub async fn detect(cgroups: &Cgroups) -> Result<Self, NoSystemd> {
        if !Path::new(BOOTED).is_dir() {
            return Err(NoSystemd::NotInit { path: BOOTED });
        }
        if cgroups.mode() != Mode::V2 {
            return Err(NoSystemd::NotV2);
        }
        is_in_view(cgroups, &cgroup_of(1), 1)?;
        // systemd's own first, as systemctl does for root: no bus can be in its way.
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

    /// Only that something listens, in this PID namespace: a systemd that is slow now may be quick for the first
    /// pod.
    async fn reach(&self) -> Result<(), NoSystemd> {
        let mut failures = Vec::new();
        for Socket { path, .. } in self.sockets.iter() {
            match tokio::time::timeout(self.deadlines.answer, UnixStream::connect(path)).await {
                // unix(7): the process that listens, by its number here. Both sockets are made by systemd.
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

/// The v2 cgroup of a process, as this process's cgroup namespace has it; see cgroups(7). Empty: none.
fn cgroup_of(pid: i32) -> String {
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("0::"));
    line.unwrap_or_default().to_owned()
}

/// Whether the cgroup that is `systemd`'s by its path has it.
fn is_in_view(cgroups: &Cgroups, path: &str, systemd: i32) -> Result<(), NoSystemd> {
    let other = || NoSystemd::OtherTree { expected: INIT, found: path.to_owned() };
    let cgroup = CgroupPath::parse(path).ok().filter(|_| path == INIT).ok_or_else(other)?;
    let pids = cgroups.open(&cgroup).and_then(|cgroup| cgroup.pids()).unwrap_or_default();
    pids.contains(&systemd).then_some(()).ok_or_else(other)
}

/// Ends all that is in the scope and removes the cgroups below it; one that is gone is fine. The scope is
/// systemd's to remove, which it does when it is told by the kernel that no process is left: waits a little
/// for that. One that systemd does not know would stay for ever, and is removed here. Blocks.
///
/// # Errors
/// Processes that do not end, or the folder that cannot be removed.
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
    /// Of `pod`, at the path that [`slice::scope_name`] is the last part of.
    pub(crate) fn of(pod: &PodId, path: &CgroupPath, description: String) -> Self {
        let slice = path.parent().map(|slice| slice::unit_name(slice.name()).to_owned()).unwrap_or_default();
        Self { name: slice::scope_name(pod), path: path.clone(), slice, description }
    }

    /// See systemd.scope(5), systemd.resource-control(5), systemd.kill(5). `Delegate` turns all controllers on
    /// that systemd knows, so that none needs accounting.
    fn properties(&self, pid: i32) -> Vec<(&'static str, Value)> {
        vec![
            ("Description", Value::Text(self.description.clone())),
            ("Slice", Value::Text(self.slice.clone())),
            ("PIDs", Value::Numbers(vec![pid.unsigned_abs()])),
            ("Delegate", Value::Flag(true)),
            // At shutdown a kubelet ends its pods in its own order.
            ("DefaultDependencies", Value::Flag(false)),
            // Forgotten also when it failed: no pod's name is used again.
            ("CollectMode", Value::Text("inactive-or-failed".to_owned())),
            // systemd's default is 15 % of what the host allows; a pod's limit is its client's to set.
            ("TasksMax", Value::Number(u64::MAX)),
        ]
    }
}
