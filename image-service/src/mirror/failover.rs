//! One request's way through the endpoints: the order, the pauses, and when it is given up.

use std::time::Duration;

use tokio::time::Instant;

use super::endpoint::Capability;
use super::error::{AllFailed, EndpointFailure};
use super::sources::Sources;
use crate::registry::EndpointError;

/// When a request is given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Rounds through all endpoints without any progress, as long as they fail in a way that may pass.
    pub rounds: u32,
    /// Pause after the first round; doubled after each.
    pub first_pause: Duration,
    /// Longest that one request goes on without progress, `Retry-After` included.
    pub patience: Duration,
    /// An endpoint that sends fewer bytes of a layer in one stall window is left for the next one, as long
    /// as there is one that has not been so slow.
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

/// One request's way through the endpoints.
pub(crate) struct Failover<'a> {
    sources: &'a Sources,
    capability: Capability,
    /// The last failure of each endpoint.
    failures: Vec<Option<EndpointError>>,
    /// Endpoints whose failure will not pass.
    out: Vec<bool>,
    /// Rounds since the last progress.
    round: u32,
    last_progress: Instant,
    /// Whether this round received something.
    progressed: bool,
    /// Whether a blob must come from one endpoint alone.
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

    /// For a blob.
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

    /// Takes an endpoint out for good, keeping why.
    pub(crate) fn exclude(&mut self, index: usize, error: EndpointError) {
        self.failed(index, error);
        self.out[index] = true;
    }

    /// Keeps why an endpoint is suspected of wrong bytes. It stays in, and from now on a blob comes from one
    /// endpoint alone.
    pub(crate) fn suspect(&mut self, index: usize, error: EndpointError) {
        self.failed(index, error);
        self.out[index] = false;
        self.unmixed = true;
    }

    /// See [`suspect`](Self::suspect).
    pub(crate) fn is_unmixed(&self) -> bool {
        self.unmixed
    }

    /// Takes an endpoint out for good for what it failed with last.
    pub(crate) fn exclude_failed(&mut self, index: usize) {
        self.out[index] = true;
    }

    /// Says that something was received: rounds and patience are counted anew.
    pub(crate) fn progressed(&mut self) {
        self.round = 0;
        self.last_progress = Instant::now();
        self.progressed = true;
    }

    /// Waits for the next round.
    ///
    /// # Errors
    /// There is no next round: all failures will stay, or the limits of the policy are reached.
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
        Ok(())
    }

    /// Whether the registry itself refused: mirrors that do not answer would not know better.
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
