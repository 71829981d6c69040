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
//! is no special case, and an idle server holds nothing. The few messages are written here, in [`message`]:
//! zbus brings 22 crates more, 2.5 MB of program and 2 MB of memory, for one method call and one signal.

mod bus;
mod error;
mod holder;
mod message;
mod slice;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crisp_executor::cgroup::{CgroupError, CgroupPath, Cgroups, Mode};
use crisp_executor::id::PodId;
use tokio::net::UnixStream;
use tokio::sync::Semaphore;

use self::bus::Bus;
pub use self::error::{NoSystemd, SystemdError};
pub(crate) use self::holder::ScopeHolder;
use self::message::Value;
pub use self::slice::{InvalidSlice, is_slice, slice_path};

/// There while systemd is the host's init, see sd_booted(3).
const BOOTED: &str = "/run/systemd/system";
/// The system bus, and systemd's own socket, which does without a bus.
const SYSTEM_BUS: &str = "/run/dbus/system_bus_socket";
const PRIVATE: &str = "/run/systemd/private";
/// For each answer: to the handshake, to the call, and the end of the job.
const ANSWER: Duration = Duration::from_secs(20);
/// From the end of a scope's last process to its own.
const REMOVAL: Duration = Duration::from_secs(2);
/// Scopes that are made at once: a bus allows a user 256 connections.
const STARTS: usize = 32;

/// A host's systemd. Clones are the same one.
#[derive(Debug, Clone)]
pub struct Systemd {
    /// The first that can be connected to is used.
    sockets: Arc<[Socket]>,
    starts: Arc<Semaphore>,
    answer: Duration,
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
        let systemd = Self::at(vec![
            Socket { path: SYSTEM_BUS.into(), is_bus: true },
            Socket { path: PRIVATE.into(), is_bus: false },
        ]);
        // Only that something listens: a systemd that is slow now may be quick for the first pod.
        let connected = systemd.connect().await;
        connected.map(|_| ()).map_err(NoSystemd::Unreachable)?;
        Ok(systemd)
    }

    pub(crate) fn at(sockets: Vec<Socket>) -> Self {
        Self { sockets: sockets.into(), starts: Arc::new(Semaphore::new(STARTS)), answer: ANSWER }
    }

    /// Makes `scope` with process `pid` in it. Dropped before it returns, the scope may come to be all the
    /// same; it ends with that process.
    ///
    /// # Errors
    /// [`SystemdError`]: systemd refuses, cannot be reached or does not answer in time.
    pub(crate) async fn start_scope(&self, scope: &Scope, pid: i32) -> Result<(), SystemdError> {
        // Fails only when closed, which it never is.
        let _permit = self.starts.acquire().await;
        let (stream, socket) = self.connect().await?;
        let mut bus = Bus::open(stream, socket, self.answer, &scope.name).await?;
        bus.start_transient_unit(&scope.name, &properties(scope, pid)).await
    }

    async fn connect(&self) -> Result<(UnixStream, &Socket), SystemdError> {
        let mut failures = Vec::new();
        for socket in self.sockets.iter() {
            match tokio::time::timeout(self.answer, UnixStream::connect(&socket.path)).await {
                Ok(Ok(stream)) => return Ok((stream, socket)),
                Ok(Err(error)) => failures.push(format!("{}: {error}", socket.path.display())),
                Err(_) => failures.push(format!("{}: no answer", socket.path.display())),
            }
        }
        Err(SystemdError::Connect { failures: failures.join("; ") })
    }
}

/// See systemd.scope(5), systemd.resource-control(5), systemd.kill(5). `Delegate` turns all controllers on that
/// systemd knows, so that none needs accounting.
fn properties(scope: &Scope, pid: i32) -> Vec<(&'static str, Value)> {
    vec![
        ("Description", Value::Text(scope.description.clone())),
        ("Slice", Value::Text(scope.slice.clone())),
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

/// Ends all that is in the scope and removes the cgroups below it; one that is gone is fine. The scope is
/// systemd's to remove, which it does when it is told by the kernel that no process is left: waits a little
/// for that. Blocks.
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
            tracing::warn!(%scope, after = ?REMOVAL, "systemd has not removed an empty scope; it will when it is able to");
            return Ok(());
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

impl Scope {
    /// Of `pod`, at the path that [`scope_name`] is the last part of.
    pub(crate) fn of(pod: &PodId, path: &CgroupPath, description: String) -> Self {
        let slice = path.parent().map(|slice| slice.name().to_owned()).unwrap_or_default();
        Self { name: scope_name(pod), slice, description }
    }
}

/// `crisp-<pod>.scope`. A kubelet takes what is between the last dash and `.scope` for an id.
pub(crate) fn scope_name(pod: &PodId) -> String {
    format!("crisp-{pod}.scope")
}
