//! The image service: store and pulls behind one handle.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crisp_metrics::Metrics;
use crisp_metrics::prometheus::{self, IntCounterVec, Opts};
use crisp_operation::Interrupted;
use tokio::sync::{Semaphore, watch};

use crate::digest::{DiffId, ImageId};
use crate::mirror::{MirrorError, Mirrors, Resolution};
use crate::pull::LoginError;
use crate::pull::{PullError, PullMetrics, PullOptions, PullProgress, PullRequest, Puller};
use crate::reference::{InvalidReference, Reference};
use crate::registry::Auth;
use crate::store::{Condition, FindError, FsUsage, Image, Lease, Removed, Store, StoreConfig, StoreError};
use crate::unpack::Limits;

/// Folders and options of the image service.
#[derive(Debug, Clone, Default)]
pub struct ImageConfig {
    /// The persistent root; images and layers live below it.
    pub root: PathBuf,
    /// A folder that lasts as long as the boot: see [`StoreConfig::state`].
    pub state: Option<PathBuf>,
    /// The tree of hosts.toml folders; `None` means that no mirrors are used.
    pub registry_config_dir: Option<PathBuf>,
    /// Options of pulls.
    pub pull: PullOptions,
    /// Limits for the archive of a layer.
    pub limits: Limits,
    /// How often all layers are read, slowly, and compared with their checksums; `None` for never.
    pub check_interval: Option<Duration>,
}

/// The reason why the image service cannot start.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The store cannot be opened.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A metric cannot be registered.
    #[error("metrics of the image service: {0}")]
    Metrics(#[from] prometheus::Error),
    /// The server is shutting down.
    #[error("opening the image store: {0}")]
    Interrupted(#[from] Interrupted),
}

/// The reason why an image cannot be removed.
#[derive(Debug, thiserror::Error)]
pub enum RemoveError {
    /// The name means no image, or more than one.
    #[error(transparent)]
    Find(#[from] FindError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The server is shutting down.
    #[error("removing the image: {0}")]
    Interrupted(#[from] Interrupted),
}

/// The reason why the endpoints of a reference are not known.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ResolveError {
    /// The reference is not valid.
    #[error(transparent)]
    Reference(#[from] InvalidReference),
    /// The registry's configuration cannot be read.
    #[error(transparent)]
    Mirror(#[from] MirrorError),
}

/// Images of one root folder. Clones share everything.
#[derive(Clone)]
pub struct ImageService {
    store: Store,
    puller: Puller,
    checked: IntCounterVec,
    /// One permit for each archive of images under way.
    pub(crate) archives: Arc<Semaphore>,
}

/// Limit for archives of images at the same time.
pub(crate) const MAX_ARCHIVES: usize = 16;

impl ImageService {
    /// Opens the store below `config.root` and registers the metrics of pulls.
    ///
    /// # Errors
    /// [`OpenError`]: the store is in use or cannot be read, or a metric is registered already.
    pub async fn open(config: ImageConfig, metrics: &Metrics) -> Result<Self, OpenError> {
        let store = StoreConfig { root: config.root, state: config.state, limits: config.limits };
        let opened = tokio::task::spawn_blocking(move || Store::open_with(store)).await;
        let store = opened.map_err(|_| Interrupted::ShuttingDown)??;
        let mirrors = Mirrors::new(config.registry_config_dir);
        let puller = Puller::new(store.clone(), mirrors, PullMetrics::register(metrics)?, config.pull);
        let checked = IntCounterVec::new(
            Opts::new(
                "crisp_image_layers_checked_total",
                "Layers that were read whole, by what they are like.",
            ),
            &["condition"],
        )?;
        metrics.register(Box::new(checked.clone()))?;
        store.register_metrics(metrics)?;
        if let Some(interval) = config.check_interval {
            let counter = checked.clone();
            store.check_periodically(interval, move |condition| count(&counter, condition));
        }
        Ok(Self { store, puller, checked, archives: Arc::new(Semaphore::new(MAX_ARCHIVES)) })
    }

    /// Allows the store to delete layers that nothing needs: see [`Store::start_collection`]. Must be called
    /// once, after the containers of an earlier server have their leases again.
    ///
    /// # Errors
    /// [`RemoveError`] when a layer cannot be removed.
    pub async fn start_collection(&self) -> Result<(), RemoveError> {
        let store = self.store.clone();
        let started = tokio::task::spawn_blocking(move || store.start_collection()).await;
        Ok(started.map_err(|_| Interrupted::ShuttingDown)??)
    }

    /// Pulls an image, or joins the equal pull under way. The pull continues when the caller leaves.
    ///
    /// # Errors
    /// [`PullError`], with the stage and every endpoint's reason.
    pub async fn pull(
        &self,
        request: &PullRequest,
        progress: Option<&watch::Sender<PullProgress>>,
    ) -> Result<ImageId, Arc<PullError>> {
        self.puller.pull(request, progress).await
    }

    /// Checks with a registry that the user may log in.
    ///
    /// # Errors
    /// [`LoginError`], with the registry's message.
    pub async fn check_login(&self, registry: &str, auth: &Auth) -> Result<(), LoginError> {
        self.puller.check_login(registry, auth).await
    }

    /// Cancels the running pulls of `reference` for all users, and returns their number. Their clients get
    /// [`ErrorKind::Cancelled`](crate::ErrorKind::Cancelled).
    ///
    /// # Errors
    /// [`InvalidReference`]
    pub fn cancel_pulls(&self, reference: &str) -> Result<usize, InvalidReference> {
        self.puller.cancel(reference)
    }

    /// Cancels all running pulls, before the server ends; waits at most `patience`.
    pub async fn shut_down(&self, patience: Duration) {
        self.puller.shut_down(patience).await;
    }

    /// The endpoints that a pull of `reference` would use, in order, each with the reason.
    ///
    /// # Errors
    /// [`ResolveError`] when the reference or the registry's configuration is wrong.
    pub fn resolve(&self, reference: &str) -> Result<Resolution, ResolveError> {
        Ok(self.puller.mirrors().resolve(&Reference::parse(reference)?)?)
    }

    /// The image with the name `text`: a tag, `name@digest`, an id or the unique beginning of one.
    ///
    /// # Errors
    /// [`FindError`] when no image or several images match.
    pub fn find(&self, text: &str) -> Result<Arc<Image>, FindError> {
        self.store.find(text)
    }

    /// All images.
    #[must_use]
    pub fn list(&self) -> Vec<Arc<Image>> {
        self.store.list()
    }

    /// Removes one name, as CRI's RemoveImage and `rmi` do: the image is removed with its last tag. An id
    /// removes the image with all its names.
    ///
    /// # Errors
    /// [`RemoveError`] when no image or several images match, or the disk refuses.
    pub async fn remove(&self, text: &str) -> Result<Removed, RemoveError> {
        let id = self.store.find(text)?.id.clone();
        let digits =
            text.strip_prefix(id.digest().algorithm().name()).and_then(|rest| rest.strip_prefix(':'));
        let digits = digits.unwrap_or(text);
        let by_id = digits.len() >= 4 && id.hex().starts_with(digits);
        let reference = if by_id { None } else { Some(Reference::parse(text).map_err(FindError::from)?) };
        let store = self.store.clone();
        let removed = tokio::task::spawn_blocking(move || match reference {
            Some(reference) => store.untag(&id, &reference),
            None => store.remove_image(&id).map(|()| Removed::Image(id)),
        });
        Ok(removed.await.map_err(|_| Interrupted::ShuttingDown)??)
    }

    /// The disk usage of the layers.
    #[must_use]
    pub fn usage(&self) -> FsUsage {
        self.store.usage()
    }

    /// Keeps layers (bottom first) in the store for a container, and returns their paths.
    ///
    /// # Errors
    /// [`StoreError::LayerMissing`] when one is not in the store.
    pub fn lease(&self, layers: &[DiffId]) -> Result<Lease, StoreError> {
        self.store.lease(layers)
    }

    /// Reads a whole layer and compares it with its checksum. Blocks.
    ///
    /// # Errors
    /// As [`Store::verify`].
    pub fn check_layer(&self, diff: &DiffId) -> Result<Condition, StoreError> {
        self.store.verify(diff).inspect(|condition| count(&self.checked, condition))
    }

    /// The store itself, for rarely used functions. Its methods that use the disk block.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }
}

fn count(checked: &IntCounterVec, condition: &Condition) {
    let label = match condition {
        Condition::Sound => "sound",
        Condition::Damaged(_) => "damaged",
        Condition::Unknown => "unknown",
    };
    checked.with_label_values(&[label]).inc();
}
