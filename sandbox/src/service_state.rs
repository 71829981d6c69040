//! The shared state of all operations on pods.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crisp_executor::cgroup::Cgroups;
use crisp_executor::ids::PodId;
use crisp_metrics::Metrics;
use crisp_operation::{KeyedGuard, KeyedLocks};
use tokio::sync::broadcast;

use crate::error::PodError;
use crate::layout::Layout;
use crate::network::Networks;
use crate::pod::Pod;
use crate::pod::cgroups::CgroupDriver;
use crate::pod_table::PodTable;
use crate::spawn::MonitorBinary;
use crate::systemd::Systemd;
use crate::top_cgroup::TopCgroup;

/// Longer than the sum of the deadlines of an operation on a pod, without CNI plugins.
const LOCK: Duration = Duration::from_secs(120);
/// Plugin calls, each with its own deadline, that fit into the wait for the lock of a pod without a record yet.
const PLUGIN_CALLS: u32 = 10;

/// The folders and other resources for pods.
#[derive(Debug, Clone)]
pub struct SandboxConfig {
    /// Survives a reboot, e.g. /var/lib/crisp.
    pub root: PathBuf,
    /// Lost after a reboot, e.g. /run/crisp.
    pub state: PathBuf,
    pub monitor: MonitorBinary,
    pub cgroups: Cgroups,
    /// The systemd cgroup driver; None for cgroupfs.
    pub systemd: Option<Systemd>,
    pub networks: Networks,
}

/// An event of a pod. Each is sent once, when the pod's state has changed, even if the request for it failed.
#[derive(Debug, Clone)]
pub enum PodEvent {
    /// It has just been made, and its monitor answers.
    Made(Arc<Pod>),
    /// This server is connected to its monitor, again or after an earlier server.
    Connected(Arc<Pod>),
    /// Its monitor does not answer, and has not ended.
    Silent(Arc<Pod>),
    /// A part of it has ended that cannot be made again.
    Degraded(Arc<Pod>),
    /// Its monitor ended unexpectedly, and its containers with it.
    Lost(Arc<Pod>),
    Stopped(Arc<Pod>),
    Removed(Arc<Pod>),
}

pub(crate) struct ServiceState {
    pub(crate) layout: Layout,
    pub(crate) monitor: MonitorBinary,
    pub(crate) cgroups: Cgroups,
    pub(crate) systemd: Option<Systemd>,
    pub(crate) top_cgroup: TopCgroup,
    pub(crate) networks: Networks,
    pub(crate) metrics: Metrics,
    pub(crate) table: PodTable,
    /// Pods without a usable record that are being recovered: they may be in no table yet.
    pub(crate) recovering: Mutex<BTreeSet<PodId>>,
    /// Making, stopping and removing one pod exclude each other.
    locks: KeyedLocks<PodId>,
    events: broadcast::Sender<PodEvent>,
}

impl ServiceState {
    pub(crate) fn new(config: SandboxConfig, metrics: &Metrics) -> Self {
        Self {
            layout: Layout::new(&config.root, &config.state),
            monitor: config.monitor,
            cgroups: config.cgroups,
            systemd: config.systemd,
            top_cgroup: TopCgroup::default(),
            networks: config.networks,
            metrics: metrics.clone(),
            table: PodTable::default(),
            recovering: Mutex::default(),
            locks: KeyedLocks::default(),
            events: broadcast::Sender::new(1024),
        }
    }

    /// The driver of pods that are made from now on.
    pub(crate) fn cgroup_driver(&self) -> CgroupDriver {
        if self.systemd.is_some() { CgroupDriver::Systemd } else { CgroupDriver::Cgroupfs }
    }

    /// The lock of one pod.
    ///
    /// # Errors
    /// [`PodError::Busy`] when another operation holds it for longer than any should take.
    pub(crate) async fn lock(&self, pod: &PodId, operation: &'static str) -> Result<KeyedGuard, PodError> {
        let of_plugins = self.networks.plugin_deadline() * PLUGIN_CALLS;
        let patience = LOCK + of_plugins.max(self.networks.time_of_detach(pod));
        let lock = self.locks.lock_within(pod.clone(), operation, patience).await;
        lock.map_err(|busy| PodError::Busy { operation, pod: pod.clone(), busy })
    }

    pub(crate) fn emit(&self, event: PodEvent) {
        // Fails without a receiver, which is fine.
        let _ = self.events.send(event);
    }

    pub(crate) fn subscribe(&self) -> broadcast::Receiver<PodEvent> {
        self.events.subscribe()
    }
}
