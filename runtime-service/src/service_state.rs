//! The shared state of all operations.

use std::sync::{Arc, PoisonError, RwLock};

use crisp_executor::cgroup::{CgroupPath, Cgroups};
use crisp_executor::ids::{ContainerId, PodId};
use crisp_image_service::Store;
use crisp_metrics::{Metrics, prometheus};
use crisp_operation::{Cancel, KeyedLocks, SingleFlight, clock};
use crisp_sandbox::link::MonitorLink;
use crisp_sandbox::{Pod, Pods};
use crisp_streaming::StreamServer;
use tokio::sync::Semaphore;

use crate::cause::{Cause, Operation};
use crate::container::Container;
use crate::container::config::ContainerConfig;
use crate::container::kill_at::KillAt;
use crate::container::table::{Name, Table};
use crate::error::RuntimeError;
use crate::events::Events;
use crate::exec_metrics::ExecMetrics;
use crate::followed::Followed;
use crate::health::Health;
use crate::journal::Journal;
use crate::layout::Layout;
use crate::log_once::LogOnce;
use crate::set_aside::SetAside;
use crate::spec::host::Host;
use crate::spec::user::Users;
use crate::stats::StatsState;
use crate::{LiveConfig, RuntimeConfig};

/// Limit for copies of files at the same time: each has a thread.
pub(crate) const MAX_COPIES: usize = 64;

/// The state of one runtime service, shared in one `Arc`.
pub struct ServiceState {
    pub config: RuntimeConfig,
    pub(crate) live: RwLock<LiveConfig>,
    pub layout: Layout,
    pub pods: Pods,
    pub images: Store,
    pub cgroups: Cgroups,
    pub host: Host,
    pub users: Users,
    pub metrics: Metrics,
    pub streams: StreamServer,
    pub containers: Table,
    pub events: Events,
    pub journal: Journal,
    /// The start time of this server, in nanoseconds since 1970.
    pub(crate) opened_at: i64,
    pub(crate) exec_metrics: ExecMetrics,
    pub(crate) stats: StatsState,
    pub(crate) health: Health,
    pub(crate) set_aside: SetAside,
    pub(crate) followed: Arc<Followed<MonitorLink>>,
    /// The notes of monitors about this host.
    pub(crate) host_notes: LogOnce,
    /// Start, stop, update and remove of one container exclude each other.
    pub(crate) locks: KeyedLocks<ContainerId>,
    pub(crate) creates: SingleFlight<Name, ContainerId, RuntimeError, Arc<ContainerConfig>>,
    pub(crate) starts: SingleFlight<ContainerId, (), RuntimeError>,
    pub(crate) stops: SingleFlight<ContainerId, (), RuntimeError, KillAt>,
    pub(crate) removes: SingleFlight<ContainerId, (), RuntimeError>,
    pub(crate) pod_stops: SingleFlight<PodId, (), RuntimeError>,
    pub(crate) pod_removes: SingleFlight<PodId, (), RuntimeError>,
    /// Held by the task that deletes the folders of removed containers.
    pub(crate) deleting: tokio::sync::Mutex<()>,
    /// One permit for each container that is prepared and not yet started.
    pub(crate) prepared: Arc<Semaphore>,
    /// One permit for each copy of files under way.
    pub(crate) copies: Arc<Semaphore>,
    /// Cancelled when the server ends: its streamed commands are hung up, the others killed.
    pub(crate) closing: Cancel,
    /// Locked for reading by each streamed command under way.
    pub(crate) streamed_commands: tokio::sync::RwLock<()>,
}

impl ServiceState {
    pub(crate) fn new(
        config: RuntimeConfig,
        pods: Pods,
        images: Store,
        streams: StreamServer,
        metrics: &Metrics,
    ) -> Result<Arc<Self>, prometheus::Error> {
        let layout = Layout::new(&config.root);
        Ok(Arc::new(Self {
            live: RwLock::new(config.live),
            exec_metrics: ExecMetrics::register(metrics)?,
            journal: Journal::new(&layout, metrics)?,
            layout,
            host: Host::detect(pods.cgroups().mode()),
            cgroups: pods.cgroups().clone(),
            pods,
            images,
            users: Users::default(),
            metrics: metrics.clone(),
            streams,
            containers: Table::default(),
            events: Events::new(metrics)?,
            opened_at: clock::now(),
            stats: StatsState::default(),
            health: Health::default(),
            set_aside: SetAside::default(),
            followed: Followed::new(MonitorLink::is_same),
            host_notes: LogOnce::default(),
            locks: KeyedLocks::default(),
            creates: SingleFlight::default(),
            starts: SingleFlight::default(),
            stops: SingleFlight::default(),
            removes: SingleFlight::default(),
            pod_stops: SingleFlight::default(),
            pod_removes: SingleFlight::default(),
            deleting: tokio::sync::Mutex::default(),
            prepared: Arc::new(Semaphore::new(prepared_max())),
            copies: Arc::new(Semaphore::new(MAX_COPIES)),
            closing: Cancel::new(),
            streamed_commands: tokio::sync::RwLock::default(),
            config,
        }))
    }

    /// A run of the operation `name` on a container.
    pub(crate) fn operation(&self, name: &'static str, container: &ContainerId) -> Operation {
        Operation::new(&self.metrics, name, subject(container))
    }

    /// The pod of a container, while the pod exists.
    pub(crate) fn pod_of(&self, container: &Container) -> Option<Arc<Pod>> {
        self.pods.get(&container.metadata.pod)
    }

    /// The file system with the containers' writable layers, for clients that watch its free space.
    pub(crate) fn writable_mountpoint(&self) -> String {
        self.layout.containers().to_string_lossy().into_owned()
    }

    /// The container that a client names by its id or the beginning of it.
    pub(crate) fn live_config(&self) -> LiveConfig {
        *self.live.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn container(&self, id: &str) -> Result<Arc<Container>, RuntimeError> {
        Ok(self.containers.find(id)?)
    }
}

/// Limit for the image's VOLUMEs of a container whose plan is prepared: each has a descriptor in it.
pub(crate) const PREPARED_VOLUMES: usize = 2;
/// Descriptors of a prepared container: its root, its cgroup on a host with cgroup v1, the pod's three files,
/// its log and the image's volumes.
const PREPARED_DESCRIPTORS: u64 = 1 + 14 + 3 + 1 + PREPARED_VOLUMES as u64;
/// Each is a mount and a cgroup that may never be used.
const PREPARED_MAX: usize = 250;

/// The limit for prepared containers: together they have at most an eighth of this process's descriptors.
fn prepared_max() -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let most = limit.unwrap_or(u64::MAX) / 8 / PREPARED_DESCRIPTORS;
    usize::try_from(most).map_or(PREPARED_MAX, |most| most.min(PREPARED_MAX))
}

/// The name of a container in messages.
pub(crate) fn subject(container: &ContainerId) -> String {
    format!("container {container}")
}

/// The last component of a container's cgroup is its id, by which cAdvisor finds it.
pub(crate) fn cgroup_path(pod: &Pod, container: &ContainerId) -> Result<CgroupPath, Cause> {
    Ok(pod.cgroup_parent().child(container.as_str())?)
}
