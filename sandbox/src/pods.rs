//! All pods of this server: [`Pods`] finds, makes, stops and removes them.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crisp_executor::cgroup::Cgroups;
use crisp_executor::ids::PodId;
use crisp_metrics::{Metrics, trace};
use crisp_operation::SingleFlight;
use tokio::sync::broadcast;

use crate::config::{PodConfig, PodKey};
use crate::error::{PodError, Shared};
use crate::inventory::{self, KnownOwners, NotRemoved, Orphan, Thing};
use crate::namespace::NetworkMode;
use crate::network::{self, Attachment, Connection, NetworkStatus, Networks};
use crate::ops::network_connect::{self, ConnectError};
use crate::ops::{network_upkeep, pod_joined, pod_recover, pod_remove, pod_run, pod_stop, pod_update};
use crate::pod::Pod;
use crate::pod::cgroups::CgroupDriver;
use crate::pod::resources::PodResources;
use crate::pod_table::FindError;
use crate::service_state::{PodEvent, SandboxConfig, ServiceState};

/// Time limit for writing records that are not on disk yet.
const FLUSH: Duration = Duration::from_secs(5);

/// The pods of one server. Clones are the same set.
#[derive(Clone)]
pub struct Pods {
    service: Arc<ServiceState>,
    runs: SingleFlight<PodKey, PodId, PodError>,
}

impl Pods {
    /// Finds the pods of an earlier server, in parallel, and reconnects to their monitors.
    ///
    /// # Errors
    /// Only when the folders themselves cannot be made or read: a single pod never keeps the others from
    /// being served.
    pub async fn open(config: SandboxConfig, metrics: &Metrics) -> std::io::Result<Self> {
        network::register_metrics(metrics).map_err(std::io::Error::other)?;
        let service = Arc::new(ServiceState::new(config, metrics));
        pod_recover::recover(&service).await?;
        network_upkeep::start(&service);
        Ok(Self { service, runs: SingleFlight::default() })
    }

    /// Makes the pod, or joins an equal request: with the same namespace, name, uid and attempt. The work
    /// continues if the caller leaves.
    ///
    /// # Errors
    /// The configuration is not valid, or a stage failed. If the undo fails too, the pod is listed as
    /// [`Failed`](crate::PodState::Failed), and the next equal request cleans it up.
    pub async fn run(&self, config: PodConfig) -> Shared<PodId> {
        config.validate().map_err(|e| Arc::new(e.into()))?;
        let (service, key) = (self.service.clone(), config.key());
        let run = |cancel| ((), async move { pod_run::run(&service, config, cancel).await });
        self.runs.join_or_start(key, run).wait().await
    }

    /// Cancels a running request for a pod; [`run`](Self::run) fails after the undo.
    pub fn cancel_run(&self, key: &PodKey) {
        if let Some(run) = self.runs.get(key) {
            run.cancel();
        }
    }

    /// Releases all resources of the pod except its record. Stopping a stopped pod has no effect. The work
    /// continues if the caller leaves.
    ///
    /// # Errors
    /// The failed stages; the pod is not ready then and can be stopped again.
    pub async fn stop(&self, id: &PodId) -> Result<(), PodError> {
        let Some(pod) = self.get(id) else { return Ok(()) };
        let service = self.service.clone();
        in_background(pod_stop::OPERATION, async move { pod_stop::stop(&service, &pod).await }).await
    }

    /// Stops the pod if necessary and removes it. An unknown pod counts as removed. The work continues if the
    /// caller leaves.
    ///
    /// # Errors
    /// The failed stages; the pod is still listed and can be removed again.
    pub async fn remove(&self, id: &PodId) -> Result<(), PodError> {
        let Some(pod) = self.get(id) else { return Ok(()) };
        let service = self.service.clone();
        in_background(pod_remove::OPERATION, async move { pod_remove::remove(&service, &pod).await }).await
    }

    /// Records the resources of the whole pod, in addition to those recorded before. The work continues if
    /// the caller leaves.
    ///
    /// # Errors
    /// The pod cannot run anything, or the kernel refuses a limit.
    pub async fn update(&self, pod: &Arc<Pod>, newer: PodResources) -> Result<(), PodError> {
        let (service, pod) = (self.service.clone(), pod.clone());
        in_background(pod_update::OPERATION, async move { pod_update::update(&service, &pod, newer).await })
            .await
    }

    /// Whether the network of the pod is its own or the host's, or that of a pod that is still there.
    #[must_use]
    pub fn has_its_network(&self, pod: &Pod) -> bool {
        match &pod.config.network {
            NetworkMode::Joined(other) => pod_joined::owner(&self.service, other).is_ok(),
            NetworkMode::Pod | NetworkMode::Host => true,
        }
    }

    /// Joins a ready pod to another network.
    ///
    /// # Errors
    /// The pod is not ready, or it cannot join.
    pub async fn connect(&self, pod: &Pod, connection: Connection) -> Result<Attachment, ConnectError> {
        network_connect::connect(&self.service, pod, connection).await
    }

    /// The pod with this id.
    #[must_use]
    pub fn get(&self, id: &PodId) -> Option<Arc<Pod>> {
        self.service.table.get(id)
    }

    /// The pod whose id is `text` or begins with it.
    ///
    /// # Errors
    /// No pod matches, or several.
    pub fn find(&self, text: &str) -> Result<Arc<Pod>, FindError> {
        self.service.table.find(text)
    }

    /// All pods, oldest first.
    #[must_use]
    pub fn list(&self) -> Vec<Arc<Pod>> {
        self.service.table.list()
    }

    /// The folder in which the monitor of a pod records exits, also for an unknown pod.
    #[must_use]
    pub fn exits_folder(&self, pod: &PodId) -> PathBuf {
        self.service.layout.exits(pod)
    }

    /// The events of pods from now on.
    #[must_use]
    pub fn events(&self) -> broadcast::Receiver<PodEvent> {
        self.service.subscribe()
    }

    /// Whether pods with their own network can be made, and if not, the reason. Blocks for some seconds at most
    /// while the plugins of a network respond for the first time.
    #[must_use]
    pub fn network_status(&self) -> NetworkStatus {
        self.service.networks.first_status()
    }

    /// The networks, for statistics.
    #[must_use]
    pub fn networks(&self) -> &Networks {
        &self.service.networks
    }

    /// The cgroup hierarchies of this host.
    #[must_use]
    pub fn cgroups(&self) -> &Cgroups {
        &self.service.cgroups
    }

    /// The cgroup driver.
    #[must_use]
    pub fn cgroup_driver(&self) -> CgroupDriver {
        self.service.cgroup_driver()
    }

    /// Everything that this server has on the machine for pods and their containers, each thing with its
    /// owner. Blocks about as long as reading /proc takes.
    #[must_use]
    pub fn inventory(&self, known: &KnownOwners) -> Vec<Thing> {
        inventory::list(&self.service, known)
    }

    /// Removes an orphan that holds neither data nor processes.
    ///
    /// # Errors
    /// The removal failed, or the orphan is left to people.
    pub async fn remove_orphan(&self, orphan: &Orphan) -> Result<(), NotRemoved> {
        inventory::remove(&self.service, &orphan.leftover).await
    }

    /// Writes changes that are not on disk yet, and removes the bridge if no pod uses it. For a clean end of
    /// the server.
    pub async fn close(&self) {
        let pods = self.list();
        let flush = move || pods.iter().for_each(|pod| pod.flush());
        // It has no result; a disk that hangs does not keep the server from ending.
        let _ = tokio::time::timeout(FLUSH, tokio::task::spawn_blocking(flush)).await;
        let unused = self.list().iter().all(|pod| pod.status().state.is_torn_down());
        self.service.top_cgroup.remove(&self.service.cgroups).await;
        if unused && let Err(error) = self.service.networks.close_if_unused().await {
            tracing::warn!(%error, "cannot take the pod network down");
        }
    }
}

/// Runs an operation in its own task.
async fn in_background(
    operation: &'static str,
    work: impl Future<Output = Result<(), PodError>> + Send + 'static,
) -> Result<(), PodError> {
    let work = trace::in_current(work);
    tokio::spawn(work).await.unwrap_or(Err(PodError::Interrupted { operation }))
}
