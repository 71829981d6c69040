//! All pods of this server: [`Pods`] finds them, and makes sure that equal requests are one
//! operation.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crisp_executor::cgroup::Cgroups;
use crisp_executor::id::PodId;
use crisp_metrics::Metrics;
use tokio::sync::{broadcast, watch};

use crate::config::{PodConfig, PodKey};
use crate::error::{PodError, Shared};
use crate::layout::Layout;
use crate::lifecycle;
use crate::network::{NetworkStatus, Networks};
use crate::pod::{Pod, PodState};
use crate::spawn::MonitorBinary;

/// Where and with what pods are made.
#[derive(Debug, Clone)]
pub struct SandboxConfig {
    /// Kept over reboots, e.g. /var/lib/crisp.
    pub root: PathBuf,
    /// Gone after a reboot, e.g. /run/crisp.
    pub state: PathBuf,
    pub monitor: MonitorBinary,
    pub cgroups: Cgroups,
    pub networks: Networks,
}

/// Something that happened to a pod.
#[derive(Debug, Clone)]
pub enum PodEvent {
    /// Its monitor can be talked to: just made, or found again after a restart of the server.
    Linked(Arc<Pod>),
    /// Its monitor ended without being told to, and its containers with it.
    Lost(Arc<Pod>),
    Stopped(Arc<Pod>),
    Removed(Arc<Pod>),
}

/// The pods of one server. Clones are the same set.
#[derive(Clone)]
pub struct Pods {
    pub(crate) shared: Arc<PodsInner>,
}

pub(crate) struct PodsInner {
    pub(crate) layout: Layout,
    pub(crate) monitor: MonitorBinary,
    pub(crate) cgroups: Cgroups,
    pub(crate) networks: Networks,
    pub(crate) metrics: Metrics,
    pub(crate) events: broadcast::Sender<PodEvent>,
    index: Mutex<Index>,
    /// Taking one pod down is one operation at a time.
    teardown: Mutex<HashMap<PodId, Arc<tokio::sync::Mutex<()>>>>,
}

#[derive(Debug, Default)]
struct Index {
    pods: HashMap<PodId, Arc<Pod>>,
    /// Every pod that exists or is being made.
    names: HashMap<PodKey, Name>,
}

#[derive(Debug)]
enum Name {
    Making(watch::Receiver<Option<Shared<PodId>>>),
    Made(PodId),
}

/// Why a text does not lead to one pod.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FindError {
    #[error("no pod has the id {text:?} or one that starts so")]
    None { text: String },
    #[error("{count} pods have ids that start with {text:?}: give more digits")]
    Several { text: String, count: usize },
}

impl Pods {
    /// Finds the pods of an earlier server, all at once, and reconnects to their monitors.
    ///
    /// # Errors
    /// Only when the folders themselves cannot be made or read: a single pod never keeps the others
    /// from being served.
    pub async fn open(config: SandboxConfig, metrics: &Metrics) -> std::io::Result<Self> {
        let pods = Self::new(config, metrics);
        lifecycle::recover::recover(&pods).await?;
        Ok(pods)
    }

    fn new(config: SandboxConfig, metrics: &Metrics) -> Self {
        let (events, _) = broadcast::channel(1024);
        Self {
            shared: Arc::new(PodsInner {
                layout: Layout::new(&config.root, &config.state),
                monitor: config.monitor,
                cgroups: config.cgroups,
                networks: config.networks,
                metrics: metrics.clone(),
                events,
                index: Mutex::default(),
                teardown: Mutex::default(),
            }),
        }
    }

    /// Makes the pod, or joins the making of the same one: namespace, name, uid and attempt are
    /// what makes two requests the same. The work goes on if the caller goes away.
    ///
    /// # Errors
    /// What is wrong with the configuration, or the stage that failed; then nothing is left of it.
    pub async fn run(&self, config: PodConfig) -> Shared<PodId> {
        config.validate().map_err(|e| Arc::new(e.into()))?;
        let key = config.key();
        let mut outcome = match self.reserve(&key)? {
            Reserved::Ready(id) => return Ok(id),
            Reserved::Join(outcome) => outcome,
            Reserved::Start(sender, outcome) => {
                let pods = self.clone();
                tokio::spawn(async move {
                    let result = lifecycle::run::run(&pods, config).await.map_err(Arc::new);
                    pods.settle(&key, &result);
                    let _ = sender.send(Some(result));
                });
                outcome
            }
        };
        match outcome.wait_for(Option::is_some).await {
            Ok(value) => value.clone().unwrap_or_else(|| Err(aborted())),
            Err(_) => Err(aborted()),
        }
    }

    /// Gives back all that the pod holds but its record. A stopped pod is stopped again without effect.
    ///
    /// # Errors
    /// The stages that failed; the pod stays as it was and can be stopped again.
    pub async fn stop(&self, id: &PodId) -> Result<(), PodError> {
        let Some(pod) = self.get(id) else { return Ok(()) };
        self.exclusively(pod, "stop_pod", |pods, pod| async move { lifecycle::stop::stop(&pods, &pod).await })
            .await
    }

    /// Stops the pod if needed and forgets it. An unknown pod is as good as removed.
    ///
    /// # Errors
    /// The stages that failed; the pod is still known and can be removed again.
    pub async fn remove(&self, id: &PodId) -> Result<(), PodError> {
        let Some(pod) = self.get(id) else { return Ok(()) };
        self.exclusively(pod, "remove_pod", |pods, pod| async move {
            lifecycle::remove::remove(&pods, &pod).await
        })
        .await
    }

    /// Runs `work` as a task of its own, one at a time per pod.
    async fn exclusively<F, Fut>(
        &self,
        pod: Arc<Pod>,
        operation: &'static str,
        work: F,
    ) -> Result<(), PodError>
    where
        F: FnOnce(Self, Arc<Pod>) -> Fut + Send + 'static,
        Fut: Future<Output = Result<(), PodError>> + Send,
    {
        let pods = self.clone();
        let turn = self.turn(&pod.id);
        let task = tokio::spawn(async move {
            let _guard = turn.lock().await;
            work(pods, pod).await
        });
        task.await.unwrap_or(Err(PodError::Aborted { operation }))
    }

    /// The pod with this id.
    #[must_use]
    pub fn get(&self, id: &PodId) -> Option<Arc<Pod>> {
        self.index().pods.get(id).cloned()
    }

    /// The pod whose id is, or uniquely starts with, `text`.
    ///
    /// # Errors
    /// None or several.
    pub fn find(&self, text: &str) -> Result<Arc<Pod>, FindError> {
        let index = self.index();
        if let Some(pod) = PodId::parse(text).ok().and_then(|id| index.pods.get(&id)) {
            return Ok(pod.clone());
        }
        let mut matches = index.pods.values().filter(|p| !text.is_empty() && p.id.as_str().starts_with(text));
        match (matches.next(), matches.count()) {
            (None, _) => Err(FindError::None { text: text.to_owned() }),
            (Some(pod), 0) => Ok(pod.clone()),
            (Some(_), more) => Err(FindError::Several { text: text.to_owned(), count: more + 1 }),
        }
    }

    /// All pods, oldest first.
    #[must_use]
    pub fn list(&self) -> Vec<Arc<Pod>> {
        let mut pods: Vec<_> = self.index().pods.values().cloned().collect();
        pods.sort_by(|a, b| (a.created_at, &a.id).cmp(&(b.created_at, &b.id)));
        pods
    }

    /// What happens to pods from now on.
    #[must_use]
    pub fn events(&self) -> broadcast::Receiver<PodEvent> {
        self.shared.events.subscribe()
    }

    /// Whether pods with a network of their own can be made, and if not, why.
    #[must_use]
    pub fn network_status(&self) -> NetworkStatus {
        self.shared.networks.status()
    }

    /// The networks, for statistics.
    #[must_use]
    pub fn networks(&self) -> &Networks {
        &self.shared.networks
    }

    /// The cgroup hierarchies of this host.
    #[must_use]
    pub fn cgroups(&self) -> &Cgroups {
        &self.shared.cgroups
    }

    /// Gives back what is shared by pods (the bridge) once there are none. For a clean end of the server.
    pub async fn close(&self) {
        let unused = self.index().pods.values().all(|p| p.status().state == PodState::Stopped);
        if unused && let Err(error) = self.shared.networks.close_if_unused().await {
            tracing::warn!(%error, "cannot take the pod network down");
        }
    }

    fn reserve(&self, key: &PodKey) -> Shared<Reserved> {
        let mut index = self.index();
        match index.names.get(key) {
            Some(Name::Making(outcome)) => Ok(Reserved::Join(outcome.clone())),
            Some(Name::Made(id)) => {
                let state = index.pods.get(id).map_or(PodState::Lost, |p| p.status().state);
                if state == PodState::Ready {
                    return Ok(Reserved::Ready(id.clone()));
                }
                Err(Arc::new(PodError::Exists { key: key.clone(), id: id.clone(), state }))
            }
            None => {
                let (sender, outcome) = watch::channel(None);
                index.names.insert(key.clone(), Name::Making(outcome.clone()));
                Ok(Reserved::Start(sender, outcome))
            }
        }
    }

    fn settle(&self, key: &PodKey, result: &Shared<PodId>) {
        let mut index = self.index();
        match result {
            Ok(id) => index.names.insert(key.clone(), Name::Made(id.clone())),
            Err(_) => index.names.remove(key),
        };
    }

    /// Makes the pod visible.
    pub(crate) fn insert(&self, pod: &Arc<Pod>) {
        let mut index = self.index();
        index.pods.insert(pod.id.clone(), pod.clone());
        index.names.insert(pod.config.key(), Name::Made(pod.id.clone()));
    }

    /// Forgets the pod and its name.
    pub(crate) fn forget(&self, pod: &Pod) {
        {
            let mut index = self.index();
            index.pods.remove(&pod.id);
            let key = pod.config.key();
            if matches!(index.names.get(&key), Some(Name::Made(id)) if *id == pod.id) {
                index.names.remove(&key);
            }
        }
        self.shared.teardown.lock().unwrap_or_else(PoisonError::into_inner).remove(&pod.id);
    }

    pub(crate) fn announce(&self, event: PodEvent) {
        // No receiver is no error: nobody cares yet.
        let _ = self.shared.events.send(event);
    }

    pub(crate) fn turn(&self, id: &PodId) -> Arc<tokio::sync::Mutex<()>> {
        let mut turns = self.shared.teardown.lock().unwrap_or_else(PoisonError::into_inner);
        turns.entry(id.clone()).or_default().clone()
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        self.shared.index.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

enum Reserved {
    Ready(PodId),
    Join(watch::Receiver<Option<Shared<PodId>>>),
    Start(watch::Sender<Option<Shared<PodId>>>, watch::Receiver<Option<Shared<PodId>>>),
}

fn aborted() -> Arc<PodError> {
    Arc::new(PodError::Aborted { operation: "run_pod" })
}
