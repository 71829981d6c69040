//! The stages of one pull.

use std::sync::Arc;

use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use super::Puller;
use super::error::{PullCause, PullError, PullStage};
use super::layer::LayerPull;
use super::progress::Board;
use super::question::{ManifestBy, ManifestOf, SmallBlob, WhichDigest};
use super::sources::Sources;
use crate::digest::{DiffId, Digest, ImageId};
use crate::manifest::{self, Document, ImageManifest, MAX_CONFIG, ManifestError, Platform, PulledConfig};
use crate::reference::Reference;
use crate::registry::{Credentials, RawManifest};
use crate::store::{self, Hold, NewImage};

/// An index may lead to another one; nobody nests deeper.
const MAX_INDEXES: usize = 3;

/// A failure, and where.
type Staged<T> = Result<T, Box<Failure>>;

struct Failure {
    stage: PullStage,
    cause: PullCause,
}

fn at<E: Into<PullCause>>(stage: PullStage) -> impl FnOnce(E) -> Box<Failure> {
    move |cause| Box::new(Failure { stage, cause: cause.into() })
}

fn fail<T>(stage: PullStage, cause: impl Into<PullCause>) -> Staged<T> {
    Err(at(stage)(cause))
}

impl Puller {
    /// Pulls, and says where it failed if it did.
    pub(super) async fn run(
        self,
        reference: Reference,
        credentials: Option<Credentials>,
        board: Board,
    ) -> Result<ImageId, PullError> {
        let timer = self.shared.metrics.pull(reference.registry());
        match self.stages(&reference, credentials.as_ref(), &board).await {
            Ok(id) => {
                timer.ok();
                Ok(id)
            }
            Err(failure) => {
                let Failure { stage, cause } = *failure;
                tracing::info!(%reference, %stage, error = %cause, "a pull failed");
                Err(PullError { reference: reference.to_string(), stage, cause })
            }
        }
    }

    async fn stages(
        &self,
        reference: &Reference,
        credentials: Option<&Credentials>,
        board: &Board,
    ) -> Staged<ImageId> {
        let shared = &self.shared;
        let resolution = shared.mirrors.resolve(reference).map_err(at(PullStage::Endpoints))?;
        let options = &shared.options;
        let sources =
            Sources::new(resolution, reference, credentials, &shared.clients, &shared.metrics, options.retry);
        board.stage(PullStage::Resolve);
        let timer = shared.metrics.stage("resolve");
        let known = self.unchanged(reference, &sources).await;
        timer.ok();
        if let Some(known) = known {
            return Ok(known);
        }
        board.stage(PullStage::Manifest);
        let timer = shared.metrics.stage("manifest");
        let found = timer.done(fetch_manifest(reference, &sources).await)?;
        board.stage(PullStage::Config);
        let timer = shared.metrics.stage("config");
        let config = timer.done(fetch_config(&found, &sources).await)?;
        // From here on no collection may take a layer that this image needs.
        let hold = shared.store.hold(&config.diff_ids);
        let timer = shared.metrics.stage("layers");
        timer.done(self.layers(sources, &found.image, &config.diff_ids, board).await)?;
        board.stage(PullStage::Commit);
        let image = NewImage {
            reference: reference.clone(),
            resolved: found.resolved,
            manifest: document(&found.manifest),
            config: store::Document { digest: found.image.config.digest, bytes: config.bytes },
        };
        let timer = shared.metrics.stage("commit");
        timer.done(self.commit(image, hold).await)
    }

    /// The image that is here already, when the registry says that the reference still stands for it.
    /// Asking is not skipped, not even for a digest: it is the registry that knows who may have the image.
    async fn unchanged(&self, reference: &Reference, sources: &Sources) -> Option<ImageId> {
        let image = self.shared.store.find(&reference.to_string()).ok()?;
        let stated = sources.once(&WhichDigest(reference)).await??;
        let expected = reference.repo_digest(&stated);
        image.repo_digests.contains(&expected).then(|| image.id.clone())
    }

    async fn layers(
        &self,
        sources: Sources,
        image: &ImageManifest,
        diff_ids: &[DiffId],
        board: &Board,
    ) -> Staged<()> {
        board.layers(image.layers.iter().map(|l| (l.blob.digest.clone(), l.blob.size)));
        let pull = Arc::new(LayerPull {
            store: self.shared.store.clone(),
            sources,
            board: board.clone(),
            turns: self.shared.turns.clone(),
            cancelled: watch::Sender::new(false),
        });
        let places = Arc::new(Semaphore::new(self.shared.options.layers_at_once.max(1)));
        let mut running = JoinSet::new();
        for (index, (layer, diff)) in image.layers.iter().zip(diff_ids).enumerate() {
            let (pull, places, layer, diff) = (pull.clone(), places.clone(), layer.clone(), diff.clone());
            running.spawn(async move {
                let _place = places.acquire().await;
                if *pull.cancelled.borrow() {
                    return fail(PullStage::Layer(None), PullCause::Cancelled);
                }
                let result = pull.run(index, &layer, &diff).await;
                result.map_err(at(PullStage::Layer(Some(layer.blob.digest))))
            });
        }
        let mut failure = None;
        while let Some(ended) = running.join_next().await {
            let result = ended.unwrap_or_else(|_| fail(PullStage::Layer(None), PullCause::Lost));
            if let Err(error) = result {
                pull.cancelled.send_replace(true);
                // The first is the cause, the others follow from it. All are waited for: when this
                // returns, nothing of the pull is still being written.
                failure.get_or_insert(error);
            }
        }
        failure.map_or(Ok(()), Err)
    }

    async fn commit(&self, image: NewImage, hold: Hold) -> Staged<ImageId> {
        let store = self.shared.store.clone();
        let committed = tokio::task::spawn_blocking(move || {
            let committed = store.commit_image(image);
            drop(hold);
            committed
        });
        let stage = PullStage::Commit;
        match committed.await {
            Ok(Ok(image)) => Ok(image.id.clone()),
            Ok(Err(error)) => fail(stage, PullCause::Store(Arc::new(error))),
            Err(_) => fail(stage, PullCause::Lost),
        }
    }
}

/// What a reference led to.
struct Found {
    /// Of what the reference names itself: the index, where there is one.
    resolved: Digest,
    manifest: RawManifest,
    image: ImageManifest,
}

async fn fetch_manifest(reference: &Reference, sources: &Sources) -> Staged<Found> {
    let stage = || PullStage::Manifest;
    let mut manifest = sources.first(&ManifestOf(reference)).await.map_err(at(stage()))?;
    let resolved = manifest.digest.clone();
    for _ in 0..=MAX_INDEXES {
        let entries = match Document::parse(&manifest).map_err(at(stage()))? {
            Document::Image(image) => return Ok(Found { resolved, manifest, image }),
            Document::Index(entries) => entries,
        };
        let chosen = manifest::select(&entries, &Platform::host()).map_err(at(stage()))?;
        let digest = chosen.blob.digest;
        manifest = sources.first(&ManifestBy(&digest)).await.map_err(at(stage()))?;
        let (found, expected) = (manifest.bytes.len() as u64, chosen.blob.size);
        if found != expected {
            return fail(stage(), ManifestError::Size { digest, found, expected });
        }
    }
    fail(stage(), ManifestError::TooDeep { digest: resolved })
}

/// A configuration that fits its manifest.
struct FoundConfig {
    bytes: Vec<u8>,
    diff_ids: Vec<DiffId>,
}

async fn fetch_config(found: &Found, sources: &Sources) -> Staged<FoundConfig> {
    let blob = &found.image.config;
    if blob.size > MAX_CONFIG {
        let (digest, size, limit) = (blob.digest.clone(), blob.size, MAX_CONFIG);
        return fail(PullStage::Config, ManifestError::ConfigTooLarge { digest, size, limit });
    }
    let bytes = sources.first(&SmallBlob(&blob.digest, blob.size)).await.map_err(at(PullStage::Config))?;
    let config = PulledConfig::parse(&bytes, &blob.digest, found.image.layers.len(), &Platform::host());
    let diff_ids = config.map_err(at(PullStage::Config))?.diff_ids;
    Ok(FoundConfig { bytes: bytes.to_vec(), diff_ids })
}

fn document(manifest: &RawManifest) -> store::Document {
    store::Document { digest: manifest.digest.clone(), bytes: manifest.bytes.to_vec() }
}
