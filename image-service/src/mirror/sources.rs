//! The endpoints of one pull, and the failures of each.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use super::Resolution;
use super::endpoint::Endpoint;
use super::metrics::{EndpointMetrics, MirrorMetrics};
use crate::reference::Reference;
use crate::registry::{Clients, Credentials, EndpointError, Pace, Source, Target};

/// The limits after which a request fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Rounds through all endpoints without progress, while some failure may be temporary.
    pub rounds: u32,
    /// Pause after the first round; doubled after each.
    pub first_pause: Duration,
    /// Time limit for a request without progress, including `Retry-After`.
    pub patience: Duration,
    /// An endpoint that sends fewer bytes of a layer in one stall window is left for the next one, as long as
    /// there is one that has not been so slow.
    pub slow_bytes: u64,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            rounds: 4,
            first_pause: Duration::from_millis(250),
            patience: Duration::from_secs(60),
            slow_bytes: 256 << 10,
        }
    }
}

/// The endpoints of one pull.
pub(crate) struct Sources {
    pub(super) list: Vec<Tracked>,
    pub(super) retry: RetryPolicy,
    /// The minimal speed of a body.
    pub(super) pace: Pace,
}

/// One endpoint and its failures in this pull.
pub(super) struct Tracked {
    pub(super) endpoint: Endpoint,
    pub(super) source: Source,
    pub(super) metrics: EndpointMetrics,
    /// Failures of the endpoint itself, not of the requested content.
    failures: AtomicU32,
    /// Whether a part of the image came from it.
    served: AtomicBool,
}

impl Tracked {
    pub(super) fn has_served(&self) {
        self.served.store(true, Ordering::Relaxed);
    }

    pub(super) fn failures(&self) -> u32 {
        self.failures.load(Ordering::Relaxed)
    }

    pub(super) fn note(&self, error: &EndpointError) {
        self.metrics.failed(error);
        if error.is_about_the_server() {
            self.failures.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Sources {
    /// The endpoints that served a part of the image, for people.
    pub(crate) fn served(&self) -> String {
        let served = self.list.iter().filter(|tracked| tracked.served.load(Ordering::Relaxed));
        served.map(|tracked| tracked.endpoint.to_string()).collect::<Vec<_>>().join(", ")
    }

    pub(crate) fn new(
        resolution: Resolution,
        reference: &Reference,
        credentials: Option<&Credentials>,
        clients: &Clients,
        metrics: &MirrorMetrics,
        retry: RetryPolicy,
    ) -> Self {
        let track = |endpoint: Endpoint| {
            let target = Target {
                registry: reference.registry(),
                repository: reference.repository(),
                is_registry: endpoint.is_registry(),
                credentials,
            };
            let metrics = metrics.endpoint(&resolution.registry, &endpoint.url().origin());
            let source = clients.source(endpoint.host.clone(), &target);
            Tracked { endpoint, source, metrics, failures: AtomicU32::new(0), served: AtomicBool::new(false) }
        };
        Self { list: resolution.endpoints.into_iter().map(track).collect(), retry, pace: clients.pace() }
    }
}
