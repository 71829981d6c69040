//! One pod: its fixed configuration, and its status, which changes through its status cell.

pub(crate) mod cgroups;
pub(crate) mod files;
pub(crate) mod record;
pub(crate) mod resolv_conf;
pub(crate) mod resources;
pub(crate) mod state;

use std::fs::File;
use std::os::fd::AsFd as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::{fmt, io};

use crisp_executor::cgroup::{Cgroup, CgroupError, CgroupPath, Cgroups, InvalidCgroupPath};
use crisp_executor::ids::PodId;
use crisp_executor::user_namespace::UserNamespace;
use crisp_operation::StatusCell;

use self::cgroups::PodCgroups;
use self::files::PodFiles;
use self::record::{PodMetadata, PodRecord};
use self::state::{PodState, PodStatus};
use crate::config::PodConfig;
use crate::layout::Layout;
use crate::link::MonitorLink;
use crate::network::PodNetlink;

/// The pod cannot run containers now.
#[derive(Debug, thiserror::Error)]
#[error("pod {pod} is not ready: it {state}")]
pub struct NotReady {
    pub pod: PodId,
    pub state: PodState,
}

/// A pod sandbox.
pub struct Pod {
    pub id: PodId,
    pub config: PodConfig,
    /// Nanoseconds since 1970.
    pub created_at: i64,
    layout: Layout,
    cgroups: PodCgroups,
    pub(crate) status: StatusCell<PodStatus>,
    connection: Mutex<Connection>,
}

/// The server's resources for a running pod.
#[derive(Default)]
struct Connection {
    link: Option<MonitorLink>,
    netlink: Option<PodNetlink>,
    user: Option<Arc<UserNamespace>>,
}

impl fmt::Debug for Pod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pod").field("id", &self.id).field("status", &self.status).finish_non_exhaustive()
    }
}

impl Pod {
    pub(crate) fn new(layout: &Layout, record: PodRecord) -> Arc<Self> {
        let PodRecord { metadata, status } = record;
        let cgroups = metadata.cgroups();
        let (id, config, created_at) = (metadata.id.clone(), metadata.config.clone(), metadata.created_at);
        let save = {
            let layout = layout.clone();
            move |status: &PodStatus| save(&layout, &metadata, status)
        };
        Arc::new(Self {
            id,
            config,
            created_at,
            layout: layout.clone(),
            cgroups,
            status: StatusCell::new(status, save),
            connection: Mutex::default(),
        })
    }

    /// The pod's status, from memory.
    #[must_use]
    pub fn status(&self) -> Arc<PodStatus> {
        self.status.get()
    }

    /// The connection to the pod's monitor, in any state of the pod: for signals, reports and removal.
    ///
    /// # Errors
    /// [`NotReady`] while there is none.
    pub fn link(&self) -> Result<MonitorLink, NotReady> {
        self.connection().link.clone().ok_or_else(|| self.not_ready())
    }

    /// The connection to the monitor of a pod in which containers can be started.
    ///
    /// # Errors
    /// [`NotReady`], with the reason.
    pub fn ready_link(&self) -> Result<MonitorLink, NotReady> {
        self.require_ready()?;
        self.link()
    }

    /// Whether containers can be created and started in the pod.
    ///
    /// # Errors
    /// [`NotReady`], with the reason.
    pub fn require_ready(&self) -> Result<(), NotReady> {
        if self.status().state == PodState::Ready { Ok(()) } else { Err(self.not_ready()) }
    }

    /// Returns when no process of the pod runs, or it is being stopped or was removed.
    pub async fn ended(&self) {
        // An error means that it was removed.
        let _ = self.status.subscribe().wait_for(|status| !status.state.may_run()).await;
    }

    /// Returns when containers can never be started in the pod again. A pod with a silent monitor may become
    /// ready again.
    pub async fn unready(&self) {
        let may_be = |state: &PodState| matches!(state, PodState::Ready | PodState::Unknown { .. });
        // An error means that it was removed.
        let _ = self.status.subscribe().wait_for(|status| !may_be(&status.state)).await;
    }

    fn not_ready(&self) -> NotReady {
        NotReady { pod: self.id.clone(), state: self.status().state.clone() }
    }

    /// hosts, resolv.conf and hostname.
    #[must_use]
    pub fn files(&self) -> PodFiles {
        PodFiles::of(&self.layout, &self.id)
    }

    /// The parent cgroup of the containers' cgroups.
    #[must_use]
    pub fn cgroup_parent(&self) -> &CgroupPath {
        &self.cgroups.parent
    }

    /// The cgroup that counts and limits the whole pod; others may be in it if the client named it.
    #[must_use]
    pub fn whole_cgroup(&self) -> &CgroupPath {
        &self.cgroups.whole
    }

    /// The pod's scope, with the systemd driver.
    pub(crate) fn scope(&self) -> Option<&CgroupPath> {
        self.cgroups.scope.as_ref()
    }

    /// Makes a cgroup of the pod, or of a container in it. A missing scope is not made again: systemd would
    /// not know it.
    ///
    /// # Errors
    /// [`CgroupError`]: the scope is gone, or the kernel refuses.
    pub fn create_cgroup(&self, cgroups: &Cgroups, path: &CgroupPath) -> Result<Cgroup, CgroupError> {
        match self.scope() {
            Some(scope) => cgroups.create_below(scope, path),
            None => cgroups.create(path),
        }
    }

    /// The cgroup of the monitor and of the first process of a shared PID namespace.
    pub(crate) fn own_cgroup(&self) -> Result<CgroupPath, InvalidCgroupPath> {
        self.cgroups.parent.child(self.id.as_str())
    }

    /// The pod's user namespace. None for the host's.
    ///
    /// # Errors
    /// The monitor has ended.
    pub fn user_namespace(&self) -> io::Result<Option<Arc<UserNamespace>>> {
        let Some(mappings) = &self.config.user else { return Ok(None) };
        if let Some(user) = &self.connection().user {
            return Ok(Some(user.clone()));
        }
        let gone = || io::Error::new(io::ErrorKind::NotFound, "the pod's monitor is gone");
        let pid = self.status().monitor_pid.ok_or_else(gone)?;
        // The monitor itself is in the host's namespace, but its IPC namespace is owned by the pod's.
        let ipc = File::open(format!("/proc/{pid}/ns/ipc"))?;
        let user = Arc::new(UserNamespace::owner_of(ipc.as_fd(), mappings.clone())?);
        let mut connection = self.connection();
        // While it keeps the connection, its number has not been reused.
        connection.link.as_ref().filter(|link| !link.is_closed()).ok_or_else(gone)?;
        connection.user = Some(user.clone());
        Ok(Some(user))
    }

    /// A route socket in the pod's network namespace, for its interface counters. None for the host's network
    /// and for a pod that does not run.
    #[must_use]
    pub fn netlink(&self) -> Option<PodNetlink> {
        self.connection().netlink.clone()
    }

    pub(crate) fn set_netlink(&self, netlink: PodNetlink) {
        self.connection().netlink = Some(netlink);
    }

    pub(crate) fn set_link(&self, link: MonitorLink) {
        self.connection().link = Some(link);
    }

    /// Closes the server's resources for a pod whose monitor has ended.
    pub(crate) fn disconnect(&self) {
        *self.connection() = Connection::default();
    }

    fn connection(&self) -> MutexGuard<'_, Connection> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes changes that are not on disk yet.
    pub(crate) fn flush(&self) {
        if let Err(error) = self.status.flush() {
            tracing::error!(pod = %self.id, %error, "what became of a pod is lost");
        }
    }
}

fn save(
    layout: &Layout,
    metadata: &PodMetadata,
    status: &PodStatus,
) -> Result<(), crisp_operation::record::RecordError> {
    PodRecord { metadata: metadata.clone(), status: status.clone() }.save(layout)
}
