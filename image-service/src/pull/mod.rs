//! Pulling an image, as an operation of named stages.
//!
//! ```text
//!   request ─> endpoints ─> resolve ─> manifest ─> config ─┬─> layer ─┬─> commit
//!                 │            └ unchanged: done           ├─> layer ─┤
//!          hosts.toml folders                              └─> layer ─┘  a few at a time
//!
//!   one layer:   endpoint a ──cut──> endpoint b ── pieces ──> [thread: inflate, hash, unpack] ─> store
//! ```
//!
//! | file | what it does |
//! |---|---|
//! | `mod.rs` | joins equal pulls; pulls continue without their clients, and can be cancelled |
//! | `image_pull.rs` | the stages |
//! | `layer_fetch.rs` | one layer: downloads and unpacks at the same time, and decides which side failed |
//! | `layer_share.rs` | pulls that need the same layer wait for each other, with a limit |
//!
//! Endpoints, failover and resume are in [`crate::mirror`].

mod error;
mod image_pull;
mod layer_fetch;
mod layer_share;
mod login;
mod metrics;
mod progress;

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use crisp_operation::{Flight, SingleFlight};
use tokio::sync::watch;

pub use self::error::{PullCause, PullError};
pub use self::login::LoginError;
pub use self::progress::{LayerProgress, LayerState, PullProgress, PullStage};
pub use crate::mirror::RetryPolicy;

pub(crate) use self::metrics::PullMetrics;

use self::image_pull::ImagePull;
use self::layer_share::LayerShares;
use self::progress::ProgressSender;
use crate::digest::ImageId;
use crate::mirror::Mirrors;
use crate::reference::{InvalidReference, Reference};
use crate::registry::{Auth, Clients, Credentials, Timeouts};
use crate::store::Store;

/// The image to pull, and the credentials.
#[derive(Debug, Clone, Default)]
pub struct PullRequest {
    /// As the user wrote it.
    pub reference: String,
    /// The credentials; `None` is anonymous.
    pub auth: Option<Auth>,
    /// The pod that needs the image, as NAMESPACE/NAME, for the list and the journal of operations; if equal
    /// pulls are joined, the pod of the first.
    pub pod: Option<String>,
}

/// Options of pulls.
#[derive(Debug, Clone, Copy)]
pub struct PullOptions {
    /// Time-outs of each HTTP exchange.
    pub timeouts: Timeouts,
    /// The limits after which a request fails.
    pub retry: RetryPolicy,
    /// Layers of one image fetched and unpacked at the same time.
    pub layers_at_once: usize,
    /// Time limit for waiting for another pull that fetches the same layer without progress.
    pub layer_patience: Duration,
}

impl Default for PullOptions {
    fn default() -> Self {
        Self {
            timeouts: Timeouts::default(),
            retry: RetryPolicy::default(),
            layers_at_once: 4,
            layer_patience: Duration::from_secs(5),
        }
    }
}

/// Pulls are equal when they want the same image for the same user: a pull must not succeed with another
/// user's credentials.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct PullKey {
    reference: Reference,
    fingerprint: String,
}

type PullFlight = Flight<ImageId, PullError, watch::Receiver<PullProgress>>;

/// Pulls images into a store. Clones share connections, logins and pulls under way.
#[derive(Clone)]
pub(crate) struct Puller {
    shared: Arc<Shared>,
}

struct Shared {
    store: Store,
    mirrors: Mirrors,
    clients: Clients,
    pulls: SingleFlight<PullKey, ImageId, PullError, watch::Receiver<PullProgress>>,
    layer_shares: Arc<LayerShares>,
    metrics: PullMetrics,
    options: PullOptions,
}

impl Puller {
    pub(crate) fn new(store: Store, mirrors: Mirrors, metrics: PullMetrics, options: PullOptions) -> Self {
        let clients = Clients::new(options.timeouts);
        let (pulls, layer_shares) = (SingleFlight::default(), Arc::default());
        Self { shared: Arc::new(Shared { store, mirrors, clients, pulls, layer_shares, metrics, options }) }
    }

    /// The configuration of endpoints.
    pub(crate) fn mirrors(&self) -> &Mirrors {
        &self.shared.mirrors
    }

    /// Pulls, or joins the equal pull under way.
    pub(crate) async fn pull(
        &self,
        request: &PullRequest,
        progress: Option<&watch::Sender<PullProgress>>,
    ) -> Result<ImageId, Arc<PullError>> {
        let stage = PullStage::Request.name();
        let subject = |reference: &str| match &request.pod {
            Some(pod) => format!("image {reference} ({pod})"),
            None => format!("image {reference}"),
        };
        let fail = |cause| {
            let error = PullError::new(&request.reference, stage, cause);
            let operations = self.shared.metrics.all.operations();
            let refused = operations.begin(image_pull::OPERATION, subject(&request.reference));
            refused.end(|| Some((stage, error.cause.to_string())));
            Arc::new(error)
        };
        let reference = Reference::parse(&request.reference).map_err(|e| fail(e.into()))?;
        let credentials = match &request.auth {
            Some(auth) => Credentials::from_auth(auth).map_err(|e| fail(e.into()))?,
            None => None,
        };
        let fingerprint = credentials.as_ref().map(Credentials::fingerprint).unwrap_or_default();
        let key = PullKey { reference: reference.clone(), fingerprint };
        let (name, mut is_joined) = (reference.to_string(), true);
        let flight = self.shared.pulls.join_or_start(key, |cancel| {
            is_joined = false;
            let progress = ProgressSender::new(reference.to_string());
            let receiver = progress.subscribe();
            let subject = subject(&reference.to_string());
            let pull = ImagePull { puller: self.clone(), reference, subject, credentials, progress };
            (receiver, pull.run(cancel))
        });
        let result = wait(flight, progress).await;
        if is_joined && let Err(error) = &result {
            // The pull reports its failure once, for the pod that started it.
            let operations = self.shared.metrics.all.operations();
            let joined = operations.begin(image_pull::OPERATION, subject(&name));
            joined.end(|| Some((error.stage, error.cause.to_string())));
        }
        result
    }

    /// Cancels the pulls of `reference` for all users. Returns their number.
    pub(crate) fn cancel(&self, reference: &str) -> Result<usize, InvalidReference> {
        let reference = Reference::parse(reference)?;
        Ok(self.cancel_where(|key| key.reference == reference))
    }

    /// Cancels all pulls, and waits at most `patience` for their end.
    pub(crate) async fn shut_down(&self, patience: Duration) {
        if self.cancel_where(|_| true) == 0 {
            return;
        }
        let stopped = async {
            for (_, flight) in self.shared.pulls.list() {
                let _ = flight.wait().await;
            }
        };
        if tokio::time::timeout(patience, stopped).await.is_err() {
            tracing::warn!("a pull does not stop; what it left is removed at the next start");
        }
    }

    fn cancel_where(&self, selects: impl Fn(&PullKey) -> bool) -> usize {
        let pulls = self.shared.pulls.list().into_iter().filter(|(key, _)| selects(key));
        pulls.map(|(_, flight)| flight.cancel()).count()
    }
}

/// Waits for the end of a pull and passes its progress on.
async fn wait(
    flight: PullFlight,
    progress: Option<&watch::Sender<PullProgress>>,
) -> Result<ImageId, Arc<PullError>> {
    let mut changes = flight.shared().clone();
    let Some(progress) = progress else { return flight.wait().await };
    let mut end = pin!(flight.wait());
    let mut open = true;
    loop {
        let result = tokio::select! {
            result = &mut end => Some(result),
            changed = changes.changed(), if open => {
                open = changed.is_ok();
                None
            }
        };
        progress.send_replace(changes.borrow_and_update().clone());
        if let Some(result) = result {
            return result;
        }
    }
}
