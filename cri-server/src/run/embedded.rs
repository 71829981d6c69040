//! A server inside this process, with folders that no other server uses.
//!
//! | | by default | where those are in use | with flags |
//! |---|---|---|---|
//! | images, containers, volumes, logs | /var/lib/crisp-run, kept | /var/lib/crisp-run-PID, removed at the end | --root |
//! | sockets | /run/crisp-run | /run/crisp-run-PID, removed at the end | --state |
//! | bridge | crisp-run0 | crisp-rPID | --bridge-name |
//!
//! It listens on `crisp.sock` in the folder for sockets: `crisp exec --listen unix:///run/crisp-run/crisp.sock`
//! and the like work while the pod runs.
//!
//! A `crisp serve` on this machine has other folders and another bridge, and is not disturbed: folders and
//! addresses in the configuration file apply only to that server. Of the pods that are found in the folders,
//! only those that a `crisp run` made are removed.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crisp_executor::ids::PodId;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::report::notice;
use super::{pod_remove::stop_and_remove, volumes};
use crate::config::{ListenAddress, NetworkKind, Settings, Source};
use crate::server::{LockError, Server, layout, metrics_access, socket};

const ROOT: &str = "/var/lib/crisp-run";
const STATE: &str = "/run/crisp-run";
const BRIDGE: &str = "crisp-run0";
/// Time limit for a pull that is under way at a stop request.
const PULLS_END: Duration = Duration::from_secs(3);

/// The server and the folders that are removed with it.
pub struct Embedded {
    pub server: Arc<Server>,
    listening: Option<Listening>,
    /// Serves until dropped.
    _metrics: Option<crisp_metrics::MetricsServer>,
    root: PathBuf,
    temporary: Vec<PathBuf>,
}

impl Embedded {
    /// Opens the server, and removes pods that a killed `crisp run` left behind.
    ///
    /// # Errors
    /// The server cannot be opened; temporary folders are removed then.
    pub async fn open(mut settings: Settings) -> anyhow::Result<Self> {
        let own_folders = settings.root.is_default() && settings.state.is_default();
        settings.root.set_default(ROOT.into());
        settings.state.set_default(STATE.into());
        settings.bridge_name.set_default(BRIDGE.to_owned());
        if settings.network.value == NetworkKind::Auto {
            settings.network.value = NetworkKind::CniOrBuiltIn;
        }
        if own_folders {
            remove_abandoned(&settings).await;
        }
        match Self::open_at(&settings, Vec::new()).await {
            Err(error) if own_folders && is_in_use(&error) => {
                notice(
                    "another crisp run is active: this one has its own folders, without the images of the other",
                );
                let temporary = use_folders_of(std::process::id(), &mut settings);
                let opened = Self::open_at(&settings, temporary.clone()).await;
                opened.inspect_err(|_| temporary.iter().for_each(|path| remove(path)))
            }
            opened => opened,
        }
    }

    async fn open_at(settings: &Settings, temporary: Vec<PathBuf>) -> anyhow::Result<Self> {
        let server = Arc::new(Server::open(settings).await?);
        let metrics = match settings.metrics_listen.value {
            Some(address) => Some(server.metrics.serve(address, metrics_access(settings).await?).await?),
            None => None,
        };
        let listening = Listening::start(&server, settings)
            .inspect_err(|error| tracing::warn!("other commands cannot reach this pod: {error:#}"))
            .ok();
        let root = settings.root.value.clone();
        let embedded = Self { server, listening, _metrics: metrics, root, temporary };
        embedded.remove_leftovers().await;
        Ok(embedded)
    }

    /// The folder for logs and volumes of running pods.
    pub fn folder(&self) -> PathBuf {
        layout::foreground_pods(&self.root)
    }

    /// Whether all folders of this run are removed at its end.
    pub fn is_temporary(&self) -> bool {
        !self.temporary.is_empty()
    }

    /// The folder for named volumes.
    pub fn named_volumes(&self) -> PathBuf {
        layout::named_volumes(&self.root)
    }

    /// Stops the server and removes the temporary folders. Folders that a pod still uses stay.
    pub async fn close(mut self) {
        self.server.images.shut_down(PULLS_END).await;
        if let Some(listening) = self.listening.take() {
            listening.stop().await;
        }
        self.server.runtime.close().await;
        // After this, nothing is written to folders that will be removed.
        self.server.pods.close().await;
        if self.pods_of_runs().is_empty() {
            remove(&self.folder());
            drop(self.server);
            self.temporary.iter().for_each(|path| remove(path));
        } else if let [root, state] = &self.temporary[..] {
            // Without the records, the pod's processes and addresses could not be found.
            let (root, state) = (root.display(), state.display());
            tracing::warn!("a pod could not be removed; crisp serve --root {root} --state {state} finds it");
        }
    }

    async fn remove_leftovers(&self) {
        for id in self.pods_of_runs() {
            tracing::warn!(pod = %id, "removing a pod that a killed crisp run left");
            if let Err(error) = stop_and_remove(&self.server, id.as_str()).await {
                tracing::warn!(pod = %id, error = format!("{error:#}"), "cannot remove it");
            }
        }
        // A pod that is left may still use its volumes.
        if self.pods_of_runs().is_empty() {
            remove(&self.folder());
        }
    }

    /// Pods that a `crisp run` made in these folders: their logs are in the folder of such pods. Others
    /// belong to a server that had these folders.
    fn pods_of_runs(&self) -> Vec<PodId> {
        let (folder, pods) = (self.folder(), self.server.pods.list());
        let is_ours = |log: &PathBuf| log.starts_with(&folder);
        let ours = pods.iter().filter(|pod| pod.config.log_directory.as_ref().is_some_and(is_ours));
        ours.map(|pod| pod.id.clone()).collect()
    }
}

/// The socket of the embedded server.
struct Listening {
    stop: oneshot::Sender<()>,
    task: JoinHandle<anyhow::Result<()>>,
    path: PathBuf,
}

impl Listening {
    fn start(server: &Arc<Server>, settings: &Settings) -> anyhow::Result<Self> {
        let address = if settings.listen.is_default() {
            let path = layout::standalone_socket(&settings.state.value);
            ListenAddress::parse(&path.display().to_string()).map_err(anyhow::Error::msg)?
        } else {
            settings.listen.value.clone()
        };
        let listener = socket::listen(&address)?;
        let (stop, stopped) = oneshot::channel::<()>();
        let server = Arc::clone(server);
        let task = tokio::spawn(async move {
            let until = async {
                let _ = stopped.await;
            };
            server.serve(listener, None, None, until).await
        });
        Ok(Self { stop, task, path: address.path().to_owned() })
    }

    async fn stop(self) {
        let _ = self.stop.send(());
        let _ = self.task.await;
        let _ = std::fs::remove_file(&self.path);
    }
}

fn is_in_use(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(LockError::InUse { .. }))
}

/// Sets folders and a bridge for the process `pid` only: root and state.
fn use_folders_of(pid: u32, settings: &mut Settings) -> Vec<PathBuf> {
    settings.root.value = format!("{ROOT}-{pid}").into();
    settings.state.value = format!("{STATE}-{pid}").into();
    settings.bridge_name.set_default(format!("crisp-r{pid}"));
    vec![settings.root.value.clone(), settings.state.value.clone()]
}

/// Removes pods and folders of killed runs that had temporary folders.
async fn remove_abandoned(settings: &Settings) {
    for pid in abandoned() {
        let mut theirs = settings.clone();
        let temporary = use_folders_of(pid, &mut theirs);
        // Addresses that were set are for the pod that will run now.
        theirs.listen.source = Source::Default;
        theirs.metrics_listen.value = None;
        theirs.stream_listen.value.set_port(0);
        tracing::warn!(process = pid, "removing what a killed crisp run left");
        match Embedded::open_at(&theirs, temporary).await {
            Ok(left) => left.close().await,
            Err(error) => tracing::warn!(process = pid, error = format!("{error:#}"), "cannot remove it"),
        }
    }
}

/// Processes that have ended but whose folders exist.
fn abandoned() -> BTreeSet<u32> {
    let mut pids = BTreeSet::new();
    for folder in [ROOT, STATE].map(Path::new) {
        let name = folder.file_name().unwrap_or_default().to_string_lossy();
        let above = folder.parent().unwrap_or(folder);
        for entry in std::fs::read_dir(above).into_iter().flatten().flatten() {
            let found = entry.file_name();
            let pid = found.to_str().and_then(|found| found.strip_prefix(&*name)?.strip_prefix('-'));
            pids.extend(pid.and_then(|pid| pid.parse::<u32>().ok()));
        }
    }
    // A living process has its lock, or will take it soon.
    pids.retain(|pid| !Path::new("/proc").join(pid.to_string()).exists());
    pids
}

fn remove(path: &Path) {
    if let Err(error) = volumes::remove_folder(path) {
        tracing::warn!(path = %path.display(), %error, "cannot remove a folder");
    }
}
