//! A server inside this process, on folders that no other one uses.
//!
//! | | settings say nothing | they are in use, too | settings name folders |
//! |---|---|---|---|
//! | images, containers | /var/lib/crisp-run, kept | /var/lib/crisp-run-PID, goes away | those, or an error |
//! | sockets, pods | /run/crisp-run | /run/crisp-run-PID, goes away | those, or an error |
//! | bridge | crisp-run0 | crisp-rPID | as set |
//!
//! It listens on `crisp.sock` in the folder for sockets: `crisp exec --listen unix:///run/crisp-run/crisp.sock`
//! and the like work while the pod runs.
//!
//! A `crisp serve` on this machine has other folders and another bridge, and is not disturbed.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use crisp_executor::id::PodId;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::config::{ListenAddress, Settings};
use crate::server::{LockError, Server, layout, socket};

const ROOT: &str = "/var/lib/crisp-run";
const STATE: &str = "/run/crisp-run";
const BRIDGE: &str = "crisp-run0";

/// The server and what has to be taken away with it.
pub struct Embedded {
    pub server: Arc<Server>,
    listening: Option<Listening>,
    /// Serves until dropped.
    _metrics: Option<crisp_metrics::MetricsServer>,
    state: PathBuf,
    temporary: Vec<PathBuf>,
}

impl Embedded {
    /// Opens the server, and takes down what a killed `crisp run` left in its folders.
    ///
    /// # Errors
    /// The server cannot be opened.
    pub async fn open(mut settings: Settings) -> anyhow::Result<Self> {
        let own_folders = settings.root.is_default() && settings.state.is_default();
        settings.root.or_rather(ROOT.into());
        settings.state.or_rather(STATE.into());
        settings.bridge_name.or_rather(BRIDGE.to_owned());
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
            .inspect_err(|error| tracing::warn!("other commands cannot look into this pod: {error:#}"))
            .ok();
        let embedded =
            Self { server, listening, _metrics: metrics, state: settings.state.value.clone(), temporary };
        embedded.take_down_leftovers().await;
        Ok(embedded)
    }

    /// For what a pod needs while it runs: logs, volumes.
    pub fn folder(&self) -> PathBuf {
        layout::standalone(&self.state)
    }

    /// Takes away what is only for this run.
    pub async fn close(mut self) {
        if let Some(listening) = self.listening.take() {
            listening.stop().await;
        }
        if let Err(error) = self.server.networks.close_if_unused().await {
            tracing::warn!(%error, "the pod network stays behind");
        }
        remove(&self.folder());
        drop(self.server);
        self.temporary.iter().for_each(|path| remove(path));
    }

    async fn take_down_leftovers(&self) {
        let left: Vec<PodId> = self.server.pods.list().iter().map(|pod| pod.id.clone()).collect();
        for id in left {
            tracing::warn!(pod = %id, "taking down a pod that a killed crisp run has left");
            if let Err(error) = super::life::take_down(&self.server, id.as_str()).await {
                tracing::warn!(pod = %id, error = format!("{error:#}"), "cannot take it down");
            }
        }
        remove(&self.folder());
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
    settings.bridge_name.or_rather(format!("crisp-r{pid}"));
    eprintln!("crisp: another crisp run is at work: this one keeps its images for itself");
    vec![settings.root.value.clone(), settings.state.value.clone()]
}

fn remove(path: &Path) {
    let removed = std::fs::remove_dir_all(path).with_context(|| format!("{} stays behind", path.display()));
    if let Err(error) = removed
        && path.exists()
    {
        tracing::warn!("{error:#}");
    }
}
