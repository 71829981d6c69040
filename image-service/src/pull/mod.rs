//! Pulling an image, as a list of named stages.
//!
//! ```text
//!   request ─> endpoints ─> resolve ─> manifest ─> config ─┬─> layer ─┬─> commit
//!                 │            └ unchanged: done           ├─> layer ─┤
//!          hosts.toml folders                              └─> layer ─┘  a few at a time
//!
//!   one layer:   endpoint a ──cut──> endpoint b ── pieces ──> [thread: inflate, hash, unpack] ─> store
//! ```
//!
//! | file | what it decides |
//! |---|---|
//! | `flight.rs` | equal pulls are one, and outlive their clients |
//! | `run.rs` | the stages |
//! | `sources.rs` | which endpoint is asked when, and when that is given up |
//! | `layer.rs` | one layer is fetched once, and who is to blame when it cannot be unpacked |
//! | `download.rs` | resume, fail over in the middle, verify |

mod bridge;
mod download;
mod error;
mod flight;
mod layer;
mod metrics;
mod progress;
mod question;
mod run;
mod sources;

use std::sync::Arc;

use tokio::sync::watch;

pub use self::error::{AllFailed, EndpointFailure, PullCause, PullError, PullStage};
pub use self::progress::{LayerProgress, LayerState, PullProgress};
pub use self::sources::RetryPolicy;

pub(crate) use self::metrics::PullMetrics;

use self::flight::{FlightKey, Flights};
use self::layer::LayerTurns;
use crate::digest::ImageId;
use crate::mirror::Mirrors;
use crate::reference::Reference;
use crate::registry::{Auth, Clients, Credentials, Timeouts};
use crate::store::Store;

/// What is to be pulled, as whom.
#[derive(Debug, Clone, Default)]
pub struct PullRequest {
    /// As the user wrote it.
    pub reference: String,
    /// As whom; `None` is anonymous.
    pub auth: Option<Auth>,
}

/// How pulls behave.
#[derive(Debug, Clone, Copy)]
pub struct PullOptions {
    /// Of each HTTP exchange.
    pub timeouts: Timeouts,
    /// When asking again is given up.
    pub retry: RetryPolicy,
    /// Layers of one image fetched and unpacked at the same time.
    pub layers_at_once: usize,
}

impl Default for PullOptions {
    fn default() -> Self {
        Self { timeouts: Timeouts::default(), retry: RetryPolicy::default(), layers_at_once: 4 }
    }
}

/// Pulls images into a store. Clones share connections, tokens and pulls under way.
#[derive(Clone)]
pub(crate) struct Puller {
    shared: Arc<Shared>,
}

struct Shared {
    store: Store,
    mirrors: Mirrors,
    clients: Clients,
    flights: Flights,
    turns: Arc<LayerTurns>,
    metrics: PullMetrics,
    options: PullOptions,
}

impl Puller {
    pub(crate) fn new(store: Store, mirrors: Mirrors, metrics: PullMetrics, options: PullOptions) -> Self {
        let clients = Clients::new(options.timeouts);
        let (flights, turns) = (Flights::default(), Arc::default());
        Self { shared: Arc::new(Shared { store, mirrors, clients, flights, turns, metrics, options }) }
    }

    /// Where the endpoints come from.
    pub(crate) fn mirrors(&self) -> &Mirrors {
        &self.shared.mirrors
    }

    /// Pulls, or joins the equal pull under way.
    pub(crate) async fn pull(
        &self,
        request: &PullRequest,
        progress: Option<&watch::Sender<PullProgress>>,
    ) -> Result<ImageId, PullError> {
        let fail =
            |cause| PullError { reference: request.reference.clone(), stage: PullStage::Request, cause };
        let reference = Reference::parse(&request.reference).map_err(|e| fail(e.into()))?;
        let credentials = match &request.auth {
            Some(auth) => Credentials::from_auth(auth).map_err(|e| fail(e.into()))?,
            None => None,
        };
        let fingerprint = credentials.as_ref().map(Credentials::fingerprint).unwrap_or_default();
        let key = FlightKey { reference: reference.clone(), fingerprint };
        let flight =
            self.shared.flights.join_or_start(key, |board| self.clone().run(reference, credentials, board));
        flight.wait(progress).await
    }
}
