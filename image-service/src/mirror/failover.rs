//! Tries the endpoints one after the other: decides about order, pauses, and the end of a request.
//!
//! ```text
//!   round 1: mirror a ── failed ──> mirror b ── 404 ──> registry ── 503 ──┐
//!   round 2: mirror a <───────────── pause: back-off, or Retry-After ─────┘
//! ```
//! Within a round there is no pause: the next endpoint is tried at once. An endpoint that failed is tried
//! last from then on, so that a dead mirror costs a pull one connection time-out and not one per layer.

use crisp_metrics::operations::Wait;
use tokio::time::Instant;

use super::endpoint::Capability;
use super::error::{AllFailed, EndpointFailure};
use super::request::Request;
use super::sources::Sources;
use crate::registry::EndpointError;

/// The state of one request while it tries the endpoints.
pub(crate) struct Failover<'a> {
    sources: &'a Sources,
    capability: Capability,
    /// The last failure of each endpoint.
    failures: Vec<Option<EndpointError>>,
    /// Endpoints whose failure is permanent.
    out: Vec<bool>,
    /// Rounds since the last progress.
    round: u32,
    last_progress: Instant,
    /// Whether this round received something.
    progressed: bool,
    /// Whether a blob must come from only one endpoint.
    unmixed: bool,
}

impl<'a> Failover<'a> {
    pub(crate) fn new(sources: &'a Sources, capability: Capability) -> Self {
        let out = sources.list.iter().map(|t| !t.endpoint.can(capability)).collect();
        let failures = vec![None; sources.list.len()];
        Self {
            sources,
            capability,
            failures,
            out,
            round: 0,
            last_progress: Instant::now(),
            progressed: false,
            unmixed: false,
        }
    }

    /// The failover for a blob.
    pub(crate) fn for_blob(sources: &'a Sources) -> Self {
        Self::new(sources, Capability::Pull)
    }

    /// The endpoints of this round, those without failures first.
    pub(crate) fn order(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.out.len()).filter(|i| !self.out[*i]).collect();
        order.sort_by_key(|i| self.sources.list[*i].failures());
        order
    }

    /// Whether no endpoint is left.
    pub(crate) fn is_over(&self) -> bool {
        self.out.iter().all(|out| *out)
    }

    pub(crate) fn failed(&mut self, index: usize, error: EndpointError) {
        let tracked = &self.sources.list[index];
        tracing::debug!(endpoint = %tracked.endpoint, %error, "an endpoint failed");
        tracked.note(&error);
        self.out[index] = !error.is_transient();
        self.failures[index] = Some(error);
    }

    /// Excludes an endpoint for the rest of the request, and keeps the reason.
    pub(crate) fn exclude(&mut self, index: usize, error: EndpointError) {
        self.failed(index, error);
        self.out[index] = true;
    }

    /// Keeps the reason why an endpoint is suspected of wrong bytes. It stays in use, but from now on a blob
    /// comes from one endpoint only.
    pub(crate) fn suspect(&mut self, index: usize, error: EndpointError) {
        self.failed(index, error);
        self.out[index] = false;
        self.unmixed = true;
    }

    /// See [`suspect`](Self::suspect).
    pub(crate) fn is_unmixed(&self) -> bool {
        self.unmixed
    }

    /// Excludes an endpoint for its last failure.
    pub(crate) fn exclude_failed(&mut self, index: usize) {
        self.out[index] = true;
    }

    /// Notes that a part of the image came from this endpoint.
    pub(crate) fn served(&self, index: usize) {
        let tracked = &self.sources.list[index];
        tracked.has_served();
        if self.failures.iter().enumerate().any(|(other, failure)| other != index && failure.is_some()) {
            tracked.metrics.took_over();
        }
    }

    /// Records progress: rounds and patience start again.
    pub(crate) fn progressed(&mut self) {
        self.round = 0;
        self.last_progress = Instant::now();
        self.progressed = true;
    }

    /// Waits for the next round.
    ///
    /// # Errors
    /// There is no next round: all failures are permanent, or the limits of the policy are reached.
    pub(crate) async fn pause(&mut self) -> Result<(), AllFailed> {
        let retry = &self.sources.retry;
        let waiting =
            || self.failures.iter().zip(&self.out).filter(|(_, out)| !**out).filter_map(|(f, _)| f.as_ref());
        let asked_for = waiting().map(|e| e.retry_after().unwrap_or_default()).min();
        let back_off = retry.first_pause.saturating_mul(2u32.saturating_pow(self.round.min(16)));
        self.round += 1;
        let progressed = std::mem::take(&mut self.progressed);
        let may_help = progressed || !self.registry_refused();
        let pause = match asked_for {
            Some(asked_for) if self.round < retry.rounds && may_help => back_off.max(asked_for),
            _ => return Err(self.all_failed()),
        };
        if self.last_progress.elapsed().saturating_add(pause) > retry.patience {
            return Err(self.all_failed());
        }
        tokio::time::sleep(pause).await;
        if let Some(tracked) = self.sources.list.first() {
            tracked.metrics.tried_again();
        }
        Ok(())
    }

    /// Whether the registry itself refused: then mirrors that do not answer would not help.
    fn registry_refused(&self) -> bool {
        let is_final = |e: &EndpointError| {
            matches!(
                e,
                EndpointError::NotFound { .. }
                    | EndpointError::Denied { .. }
                    | EndpointError::Unauthenticated { .. }
            )
        };
        let registries =
            self.sources.list.iter().zip(&self.failures).filter(|(t, _)| t.endpoint.is_registry());
        registries.into_iter().any(|(_, failure)| failure.as_ref().is_some_and(is_final))
    }

    pub(crate) fn all_failed(&self) -> AllFailed {
        let failures = self.sources.list.iter().zip(&self.failures).map(|(tracked, error)| EndpointFailure {
            endpoint: tracked.endpoint.to_string(),
            is_registry: tracked.endpoint.is_registry(),
            error: error.clone().filter(|_| tracked.endpoint.can(self.capability)),
        });
        AllFailed { failures: failures.collect() }
    }
}

impl Sources {
    /// Tries one endpoint after the other until one succeeds.
    pub(crate) async fn first<T>(&self, request: &impl Request<Response = T>) -> Result<T, AllFailed> {
        let mut failover = Failover::new(self, request.capability());
        loop {
            for index in failover.order() {
                let _wait = self.waits_for(index);
                match request.send(&self.list[index].source).await {
                    Ok(answer) => {
                        failover.served(index);
                        return Ok(answer);
                    }
                    Err(error) => failover.failed(index, error),
                }
            }
            failover.pause().await?;
        }
    }

    fn waits_for(&self, index: usize) -> Option<Wait> {
        crisp_operation::waits_for(|| format!("the registry endpoint {}", self.list[index].endpoint))
    }

    /// Tries each endpoint once, for optional information. A server that cannot answer this may still answer
    /// the next request: only one that cannot be reached is tried last from then on.
    pub(crate) async fn once<T>(&self, request: &impl Request<Response = T>) -> Option<T> {
        for index in Failover::new(self, request.capability()).order() {
            let tracked = &self.list[index];
            let _wait = self.waits_for(index);
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
