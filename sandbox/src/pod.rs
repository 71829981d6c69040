//! One pod: what it was asked to be (never changes) and how it is (changes through one door).

use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use crisp_executor::cgroup::CgroupPath;
use crisp_executor::id::PodId;
use serde::{Deserialize, Serialize};

use crate::config::PodConfig;
use crate::files::PodFiles;
use crate::layout::Layout;
use crate::link::MonitorLink;
use crate::network::PodNetlink;
use crate::record::{PodRecord, RecordError};

/// How far a pod is.
///
/// ```text
///              run fails: all undone, the pod is gone
///             +-----------------------------------------> (no pod)
///             |                                              ^
///   run --> Starting --> Ready --stop--> Stopped --remove----+
///                          |                ^
///                          | monitor gone   | stop
///                          +-----> Lost ----+
/// ```
///
/// Ready is the only state in which containers can be started. To CRI clients everything but
/// Ready is SANDBOX_NOTREADY.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PodState {
    /// Being made; only seen by a server that finds the record of one that died meanwhile.
    Starting,
    /// Namespaces, network and monitor are up.
    Ready,
    /// The monitor is gone without having been told to: its containers are gone too, the network
    /// and the record wait for stop and remove.
    Lost,
    /// Stopped: nothing of it runs, its network is given back.
    Stopped,
}

/// How the pod is at one moment.
#[derive(Debug, Clone)]
pub struct PodStatus {
    pub state: PodState,
    pub ips: Vec<IpAddr>,
}

/// Why a pod cannot be talked to.
#[derive(Debug, thiserror::Error)]
#[error("pod {pod} is not ready: it is {state:?}")]
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
    cgroup_parent: CgroupPath,
    status: Mutex<Live>,
}

struct Live {
    record: PodRecord,
    link: Option<MonitorLink>,
    netlink: Option<PodNetlink>,
}

impl fmt::Debug for Pod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pod").field("id", &self.id).field("status", &self.status()).finish_non_exhaustive()
    }
}

impl Pod {
    pub(crate) fn new(layout: &Layout, record: PodRecord, cgroup_parent: CgroupPath) -> Arc<Self> {
        Arc::new(Self {
            id: record.id.clone(),
            config: record.config.clone(),
            created_at: record.created_at,
            layout: layout.clone(),
            cgroup_parent,
            status: Mutex::new(Live { record, link: None, netlink: None }),
        })
    }

    /// How the pod is, from memory.
    #[must_use]
    pub fn status(&self) -> PodStatus {
        let live = self.lock();
        PodStatus { state: live.record.state, ips: live.record.ips.clone() }
    }

    /// The way to the pod's monitor.
    ///
    /// # Errors
    /// [`NotReady`] unless the pod is ready.
    pub fn link(&self) -> Result<MonitorLink, NotReady> {
        let live = self.lock();
        match (&live.link, live.record.state) {
            (Some(link), PodState::Ready) => Ok(link.clone()),
            (_, state) => Err(NotReady { pod: self.id.clone(), state }),
        }
    }

    /// The link in whatever state the pod is, for undoing.
    pub(crate) fn any_link(&self) -> Option<MonitorLink> {
        self.lock().link.clone()
    }

    /// The monitor's process id, for showing; None once stopped.
    #[must_use]
    pub fn monitor_pid(&self) -> Option<i32> {
        self.lock().record.monitor_pid
    }

    /// hosts, resolv.conf and hostname.
    #[must_use]
    pub fn files(&self) -> PodFiles {
        PodFiles::of(&self.layout, &self.id)
    }

    /// The cgroup below which the containers' cgroups are made.
    #[must_use]
    pub fn cgroup_parent(&self) -> &CgroupPath {
        &self.cgroup_parent
    }

    /// The folder in which the monitor notes exits.
    #[must_use]
    pub fn exits_folder(&self) -> std::path::PathBuf {
        self.layout.exits(&self.id)
    }

    /// A route socket in the pod's network namespace, for its interface counters. None for the
    /// host's network and for a stopped pod.
    #[must_use]
    pub fn netlink(&self) -> Option<PodNetlink> {
        self.lock().netlink.clone()
    }

    pub(crate) fn set_netlink(&self, netlink: Option<PodNetlink>) {
        self.lock().netlink = netlink;
    }

    pub(crate) fn set_link(&self, link: Option<MonitorLink>) {
        self.lock().link = link;
    }

    /// The one door for changes: on disk first, visible after.
    pub(crate) fn update(&self, change: impl FnOnce(&mut PodRecord)) -> Result<(), RecordError> {
        let mut live = self.lock();
        let mut record = live.record.clone();
        change(&mut record);
        record.save(&self.layout)?;
        live.record = record;
        Ok(())
    }

    /// As [`Pod::update`], where the truth must be visible even if the disk refuses it: a monitor
    /// that is gone is gone.
    pub(crate) fn update_anyway(&self, change: impl Fn(&mut PodRecord)) {
        if let Err(error) = self.update(&change) {
            tracing::error!(pod = %self.id, %error, "cannot write the pod's record; going on with what is true");
            change(&mut self.lock().record);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Live> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
