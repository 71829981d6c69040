//! A server inside this process, on folders that no other server uses.
//!
//! | | by default | where those are in use | with --root and --state |
//! |---|---|---|---|
//! | images, containers | /var/lib/crisp-run, kept | /var/lib/crisp-run-PID, removed at the end | those, or an error |
//! | sockets, pods | /run/crisp-run | /run/crisp-run-PID, removed at the end | those, or an error |
//! | bridge | crisp-run0 | crisp-rPID | as set |
//!
//! It listens on `crisp.sock` in the folder for sockets: `crisp exec --listen unix:///run/crisp-run/crisp.sock`
//! and the like work while the pod runs.
//!
//! A `crisp serve` on this machine has other folders and another bridge, and is not disturbed.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crisp_executor::id::PodId;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::{pod_remove::stop_and_remove, volumes};
use crate::config::{ListenAddress, Settings};
use crate::server::{LockError, Server, layout, socket};

const ROOT: &str = "/var/lib/crisp-run";
const STATE: &str = "/run/crisp-run";
const BRIDGE: &str = "crisp-run0";

/// The server and what has to be removed with it.
pub struct Embedded {
    pub server: Arc<Server>,
    listening: Option<Listening>,
    /// Serves until dropped.
    _metrics: Option<crisp_metrics::MetricsServer>,
    state: PathBuf,
    temporary: Vec<PathBuf>,
}

impl Embedded {
    /// Opens the server, and removes the pods that a killed `crisp run` left in its folders.
    ///
    /// # Errors
    /// The server cannot be opened.
    pub async fn open(mut settings: Settings) -> anyhow::Result<Self> {
        let own_folders = settings.root.is_default() && settings.state.is_default();
        settings.root.set_default(ROOT.into());
        settings.state.set_default(STATE.into());
        settings.bridge_name.set_default(BRIDGE.to_owned());
        // The network of the node belongs to its kubelet's runtime: a run must not free what that uses.
        settings.cni_gc.value = false;
        // A fixed port is the node's server's.
        settings.stream_listen.value.set_port(0);
        // A run ends too soon for that.
        settings.image_check_interval.value = None;
        let mut temporary = Vec::new();
        let mut opened = Server::open(&settings).await;
        if own_folders && opened.as_ref().is_err_and(is_in_use) {
            temporary = another_place(&mut settings);
            opened = Server::open(&settings).await;
        }
        let server = Arc::new(opened?);
        let metrics = match settings.metrics_listen.value {
            Some(address) => Some(server.metrics.serve(address).await?),
            None => None,
        };
        let listening = Listening::start(&server, &settings)
            .inspect_err(|error| tracing::warn!("other commands cannot reach this pod: {error:#}"))
            .ok();
        let embedded =
            Self { server, listening, _metrics: metrics, state: settings.state.value.clone(), temporary };
        embedded.remove_leftovers().await;
        Ok(embedded)
    }

    /// For what a pod needs while it runs: logs, volumes.
    pub fn folder(&self) -> PathBuf {
        layout::standalone(&self.state)
    }

    /// Stops the server and removes what is only for this run. Folders that a pod still uses stay.
    pub async fn close(mut self) {
        if let Some(listening) = self.listening.take() {
            listening.stop().await;
        }
        if let Err(error) = self.server.networks.close_if_unused().await {
            tracing::warn!(%error, "cannot remove the pod network");
        }
        if self.server.pods.list().is_empty() {
            remove(&self.folder());
            drop(self.server);
            self.temporary.iter().for_each(|path| remove(path));
        } else if let [root, state] = &self.temporary[..] {
            // Without the records the pod's processes and addresses could not be found any more.
            let (root, state) = (root.display(), state.display());
            tracing::warn!("a pod could not be removed; crisp serve --root {root} --state {state} finds it");
        }
    }

    async fn remove_leftovers(&self) {
        let left: Vec<PodId> = self.server.pods.list().iter().map(|pod| pod.id.clone()).collect();
        for id in left {
            tracing::warn!(pod = %id, "removing a pod that a killed crisp run left");
            if let Err(error) = stop_and_remove(&self.server, id.as_str()).await {
                tracing::warn!(pod = %id, error = format!("{error:#}"), "cannot remove it");
            }
        }
        // A pod that is left may still use its volumes.
        if self.server.pods.list().is_empty() {
            remove(&self.folder());
        }
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
            server.serve(listener, until).await
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

/// Folders and a bridge for this process alone.
fn another_place(settings: &mut Settings) -> Vec<PathBuf> {
    let pid = std::process::id();
    settings.root.value = format!("{ROOT}-{pid}").into();
    settings.state.value = format!("{STATE}-{pid}").into();
    settings.bridge_name.set_default(format!("crisp-r{pid}"));
    eprintln!(
        "crisp: another crisp run is active: this one has its own folders, without the images of the other"
    );
    vec![settings.root.value.clone(), settings.state.value.clone()]
}

fn remove(path: &Path) {
    if let Err(error) = volumes::remove_folder(path) {
        tracing::warn!(path = %path.display(), %error, "cannot remove a folder");
    }
}
