//! Tries the endpoints of one pull, one after the other.
//!
//! ```text
//!   round 1: mirror a ── failed ──> mirror b ── 404 ──> registry ── 503 ──┐
//!   round 2: mirror a <───────────── pause: back-off, or Retry-After ─────┘
//! ```
//! Within a round there is no pause: the next endpoint is tried at once. An endpoint that failed is tried
//! last from then on, so that a dead mirror costs a pull one connection time-out and not one per layer.

use std::sync::atomic::{AtomicU32, Ordering};

use super::Resolution;
use super::endpoint::Endpoint;
use super::error::AllFailed;
use super::failover::{Failover, RetryPolicy};
use super::metrics::{EndpointMetrics, MirrorMetrics};
use super::request::Request;
use crate::reference::Reference;
use crate::registry::{Clients, Credentials, EndpointError, Pace, Source, Target};

/// The endpoints of one pull.
pub(crate) struct Sources {
    pub(super) list: Vec<Tracked>,
    pub(super) retry: RetryPolicy,
    /// The least that a body must deliver.
    pub(super) pace: Pace,
}

/// One endpoint and how it has been doing in this pull.
pub(super) struct Tracked {
    pub(super) endpoint: Endpoint,
    pub(super) source: Source,
    pub(super) metrics: EndpointMetrics,
    /// Failures that are about the endpoint and not about what was asked for.
    failures: AtomicU32,
}

impl Tracked {
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
            Tracked { endpoint, source, metrics, failures: AtomicU32::new(0) }
        };
        Self { list: resolution.endpoints.into_iter().map(track).collect(), retry, pace: clients.pace() }
    }

    /// Tries one endpoint after the other until one answers.
    pub(crate) async fn first<T>(&self, request: &impl Request<Response = T>) -> Result<T, AllFailed> {
        let mut failover = Failover::new(self, request.capability());
        loop {
            for index in failover.order() {
                match request.send(&self.list[index].source).await {
                    Ok(answer) => return Ok(answer),
                    Err(error) => failover.failed(index, error),
                }
            }
            failover.pause().await?;
        }
    }

    /// Tries each endpoint once, for what may as well stay unknown. A server that cannot answer this may
    /// still answer the next request: only one that cannot be reached is tried last from then on.
    pub(crate) async fn once<T>(&self, request: &impl Request<Response = T>) -> Option<T> {
        for index in Failover::new(self, request.capability()).order() {
            let tracked = &self.list[index];
            match request.send(&tracked.source).await {
                Ok(answer) => return Some(answer),
                Err(error) => {
                    tracing::debug!(endpoint = %tracked.endpoint, %error, "an endpoint did not say a digest");
                    match error {
                        EndpointError::Connect { .. } | EndpointError::NoAnswer { .. } => {
                            tracked.note(&error)
                        }
                        _ => tracked.metrics.failed(&error),
                    }
                }
            }
        }
        None
    }
}
