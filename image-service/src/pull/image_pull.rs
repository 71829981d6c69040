//! The operation `pull_image`: its stages.

use std::sync::Arc;
use std::time::Duration;

use crisp_metrics::trace;
use crisp_operation::{Cancel, Operation, Stage, StageFailure, of_this_operation};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::Puller;
use super::error::{PullCause, PullError};
use super::layer_fetch::LayerFetch;
use super::progress::{ProgressSender, PullStage};
use crate::digest::{DiffId, Digest, ImageId};
use crate::manifest::{self, Document, ImageManifest, MAX_CONFIG, ManifestError, Platform, PulledConfig};
use crate::mirror::{ManifestByDigest, ManifestOf, Resolution, ResolveDigest, SmallBlob, Sources};
use crate::reference::Reference;
use crate::registry::{Credentials, RawManifest};
use crate::store::{self, Hold, Image, NewImage};

pub(super) const OPERATION: &str = "pull_image";
/// Limit for nested indexes; real images nest no deeper.
const MAX_INDEXES: usize = 3;

/// Time limit for stages that only use the disk.
const DISK_DEADLINE: Duration = Duration::from_secs(300);
/// Time limit for stages that fetch small documents, with all retries.
const DOCUMENT_DEADLINE: Duration = Duration::from_secs(600);
/// Time limit for all layers together, plus one second for each [`SLOWEST_RATE`] bytes.
const LAYERS_DEADLINE: Duration = Duration::from_secs(3600);
const SLOWEST_RATE: u64 = 16 << 10;

type Staged<T> = Result<T, StageFailure<PullCause>>;

/// One pull under way.
pub(super) struct ImagePull {
    pub(super) puller: Puller,
    pub(super) reference: Reference,
    /// The operation's subject.
    pub(super) subject: String,
    pub(super) credentials: Option<Credentials>,
    pub(super) progress: ProgressSender,
}

impl ImagePull {
    /// Pulls the image; `cancel` stops it.
    pub(super) async fn run(self, cancel: Cancel) -> Result<ImageId, PullError> {
        let metrics = &self.puller.shared.metrics;
        let reference = self.reference.to_string();
        let timer = metrics.pull(self.reference.registry());
        let operation = Operation::cancelled_by(&metrics.all, OPERATION, self.subject.clone(), cancel);
        let result = self.stages(&operation).await;
        match operation.finish(result).await {
            Ok(id) => {
                timer.ok();
                Ok(id)
            }
            Err(failure) => {
                let error = PullError::from_failure(&reference, failure);
                tracing::info!(%error, "a pull failed");
                Err(error)
            }
        }
    }

    async fn stages(&self, operation: &Operation<PullCause>) -> Staged<ImageId> {
        let sources = self.find_endpoints(operation).await?;
        if let Some(unchanged) = self.resolve(operation, &sources).await?
            && self.check(operation, unchanged.lower.clone()).await?
        {
            operation.remark("it was here already".to_owned());
            return Ok(unchanged.id.clone());
        }
        self.progress.stage(PullStage::Manifest);
        let name = PullStage::Manifest.name();
        let manifest = |_| fetch_manifest(&self.reference, &sources);
        let found = operation.stage(name, DOCUMENT_DEADLINE, manifest).await?;
        operation.remark(format!("from {}", sources.served()));
        self.progress.stage(PullStage::Config);
        let name = PullStage::Config.name();
        let config = operation.stage(name, DOCUMENT_DEADLINE, |_| fetch_config(&found, &sources)).await?;
        // From here on the store keeps the layers that this image needs.
        let hold = self.puller.shared.store.hold(&config.diff_ids);
        self.check(operation, config.diff_ids.clone()).await?;
        self.fetch_layers(operation, sources, &found.image, &config.diff_ids).await?;
        let image = NewImage {
            reference: self.reference.clone(),
            resolved: found.resolved,
            manifest: document(&found.manifest),
            config: store::Document { digest: found.image.config.digest, bytes: config.bytes },
        };
        self.commit(operation, image, hold).await
    }

    /// Reads the registry's folder, in a thread for blocking work: it may be on a slow volume.
    async fn find_endpoints(&self, operation: &Operation<PullCause>) -> Staged<Sources> {
        let (puller, reference) = (self.puller.clone(), self.reference.clone());
        let name = PullStage::Endpoints.name();
        let credentials = self.credentials.clone();
        // This also reads the files of certificates.
        let find = move |_: &Cancel| {
            let shared = &puller.shared;
            let resolution: Resolution = shared.mirrors.resolve(&reference)?;
            let (credentials, retry) = (credentials.as_ref(), shared.options.retry);
            let metrics = &shared.metrics.mirrors;
            Ok(Sources::new(resolution, &reference, credentials, &shared.clients, metrics, retry))
        };
        operation.stage(name, DISK_DEADLINE, |stage| async move { stage.blocking(find).await }).await
    }

    /// Returns the present image if the registry confirms that the reference still means it. The registry is
    /// also asked for a digest, because it decides who may use the image.
    async fn resolve(
        &self,
        operation: &Operation<PullCause>,
        sources: &Sources,
    ) -> Staged<Option<Arc<Image>>> {
        self.progress.stage(PullStage::Resolve);
        let unchanged = |_| async {
            let Ok(image) = self.puller.shared.store.find(&self.reference.to_string()) else {
                return Ok(None);
            };
            let Some(Some(digest)) = sources.once(&ResolveDigest(&self.reference)).await else {
                return Ok(None);
            };
            let expected = self.reference.repo_digest(&digest);
            let unchanged = image.repo_digests.contains(&expected);
            // An image whose sync failed is written again.
            let kept = unchanged && !self.puller.shared.store.is_sync_failed(&image.id);
            Ok(kept.then_some(image))
        };
        operation.stage(PullStage::Resolve.name(), DOCUMENT_DEADLINE, unchanged).await
    }

    /// Checks that the present layers are as they were unpacked. Damaged ones no longer count as present and
    /// are fetched again.
    async fn check(&self, operation: &Operation<PullCause>, layers: Vec<DiffId>) -> Staged<bool> {
        let store = self.puller.shared.store.clone();
        let check = |stage: Stage<PullCause>| async move {
            stage.blocking(move |_: &Cancel| Ok(store.check_layers(&layers).is_empty())).await
        };
        operation.stage("check", LAYERS_DEADLINE, check).await
    }

    async fn fetch_layers(
        &self,
        operation: &Operation<PullCause>,
        sources: Sources,
        image: &ImageManifest,
        diff_ids: &[DiffId],
    ) -> Staged<()> {
        self.progress.stage(PullStage::Layers);
        self.progress.layers(image.layers.iter().map(|l| (l.blob.digest.clone(), l.blob.size)));
        let bytes = image.layers.iter().fold(0u64, |sum, layer| sum.saturating_add(layer.blob.size));
        let deadline = LAYERS_DEADLINE.saturating_add(Duration::from_secs(bytes / SLOWEST_RATE));
        let fetch = |stage: Stage<PullCause>| async move {
            let fetch = Arc::new(LayerFetch {
                store: self.puller.shared.store.clone(),
                sources,
                progress: self.progress.clone(),
                shares: self.puller.shared.layer_shares.clone(),
                patience: self.puller.shared.options.layer_patience,
                cancel: stage.cancel().child(),
                stage,
            });
            let fetched = self.fetch_all(&fetch, image, diff_ids).await;
            operation.remark(format!("from {}", fetch.sources.served()));
            fetched
        };
        operation.stage(PullStage::Layers.name(), deadline, fetch).await
    }

    /// Fetches the layers, a few at a time. The first failure cancels the others; all of them are waited for,
    /// so that nothing of the pull is being written when this returns.
    async fn fetch_all(
        &self,
        fetch: &Arc<LayerFetch>,
        image: &ImageManifest,
        diff_ids: &[DiffId],
    ) -> Result<(), PullCause> {
        let permits = Arc::new(Semaphore::new(self.puller.shared.options.layers_at_once.max(1)));
        let mut running = JoinSet::new();
        for (index, (layer, diff)) in image.layers.iter().zip(diff_ids).enumerate() {
            let (fetch, permits, layer, diff) = (fetch.clone(), permits.clone(), layer.clone(), diff.clone());
            running.spawn(of_this_operation(async move {
                let _permit = permits.acquire().await;
                let mut span = trace::span("layer");
                span.set("image.layer.digest", || layer.blob.digest.to_string());
                span.set("image.layer.bytes", || i64::try_from(layer.blob.size).unwrap_or(i64::MAX));
                let fetched = trace::within(span.as_parent(), fetch.run(index, &layer, &diff)).await;
                span.done(fetched.map_err(|source| PullCause::Layer {
                    digest: layer.blob.digest,
                    source: Box::new(source),
                }))
            }));
        }
        let mut failure = None;
        while let Some(ended) = running.join_next().await {
            let result = ended.unwrap_or_else(|_| Err(crisp_operation::Interrupted::ShuttingDown.into()));
            if let Err(cause) = result {
                fetch.cancel.cancel();
                failure.get_or_insert(cause);
            }
        }
        failure.map_or(Ok(()), Err)
    }

    async fn commit(&self, operation: &Operation<PullCause>, image: NewImage, hold: Hold) -> Staged<ImageId> {
        self.progress.stage(PullStage::Commit);
        let store = self.puller.shared.store.clone();
        let commit = |stage: Stage<PullCause>| async move {
            let commit = move |_: &Cancel| {
                let committed = store.commit_image(image);
                drop(hold);
                Ok(committed?.id.clone())
            };
            stage.blocking(commit).await
        };
        operation.stage(PullStage::Commit.name(), DISK_DEADLINE, commit).await
    }
}

/// The manifest that a reference resolved to.
struct Found {
    /// The digest that the reference itself names: that of the index, if there is one.
    resolved: Digest,
    manifest: RawManifest,
    image: ImageManifest,
    /// The platform that the configuration must have; None if an index says that the image is for this one.
    platform: Option<Platform>,
}

async fn fetch_manifest(reference: &Reference, sources: &Sources) -> Result<Found, PullCause> {
    let mut manifest = sources.first(&ManifestOf(reference)).await?;
    let resolved = manifest.digest.clone();
    let mut platform = Some(Platform::host());
    for _ in 0..=MAX_INDEXES {
        let entries = match Document::parse(&manifest)? {
            Document::Image(image) => return Ok(Found { resolved, manifest, image, platform }),
            Document::Index(entries) => entries,
        };
        let chosen = manifest::select(&entries, &Platform::host())?;
        if chosen.platform.is_some() {
            platform = None;
        }
        let digest = chosen.blob.digest;
        manifest = sources.first(&ManifestByDigest(&digest)).await?;
        let (found, expected) = (manifest.bytes.len() as u64, chosen.blob.size);
        if found != expected {
            return Err(ManifestError::Size { digest, found, expected }.into());
        }
    }
    Err(ManifestError::TooDeep { digest: resolved }.into())
}

/// A configuration that matches its manifest.
struct FoundConfig {
    bytes: Vec<u8>,
    diff_ids: Vec<DiffId>,
}

async fn fetch_config(found: &Found, sources: &Sources) -> Result<FoundConfig, PullCause> {
    let blob = &found.image.config;
    if blob.size > MAX_CONFIG {
        let (digest, size, limit) = (blob.digest.clone(), blob.size, MAX_CONFIG);
        return Err(ManifestError::ConfigTooLarge { digest, size, limit }.into());
    }
    let bytes = sources.first(&SmallBlob(&blob.digest, blob.size)).await?;
    // What the store would refuse is refused before the layers are downloaded.
    store::parse_config(&blob.digest, &bytes)?;
    let layers = found.image.layers.len();
    let diff_ids = PulledConfig::parse(&bytes, &blob.digest, layers, found.platform.as_ref())?.diff_ids;
    Ok(FoundConfig { bytes: bytes.to_vec(), diff_ids })
}

fn document(manifest: &RawManifest) -> store::Document {
    store::Document { digest: manifest.digest.clone(), bytes: manifest.bytes.to_vec() }
}
