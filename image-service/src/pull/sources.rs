//! The endpoints of one pull: in which order they are asked, and when that is given up.
//!
//! ```text
//!   round 1: mirror a ── failed ──> mirror b ── 404 ──> registry ── 503 ──┐
//!   round 2: mirror a <───────────── wait: back-off, or Retry-After ──────┘
//! ```
//! Within a round nobody waits: the next endpoint is right there. An endpoint that failed once is asked
//! last from then on, so that a dead mirror costs a pull one connection time-out and not one per layer.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use super::error::{AllFailed, EndpointFailure};
use super::metrics::{EndpointMetrics, PullMetrics};
use crate::mirror::{Endpoint, Resolution};
use crate::reference::Reference;
use crate::registry::{Clients, Credentials, EndpointError, Source};

/// When asking again is given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Times that every endpoint is asked, as long as it fails in a way that may pass.
    pub rounds: u32,
    /// Pause after the first round; doubled after each.
    pub first_pause: Duration,
    /// Longest that one request waits for endpoints to come back, `Retry-After` included.
    pub patience: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self { rounds: 4, first_pause: Duration::from_millis(250), patience: Duration::from_secs(60) }
    }
}

/// What an endpoint must be allowed to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    /// Say what a tag stands for.
    Resolve,
    /// Give content by digest.
    Pull,
}

/// Something small that an endpoint is asked for.
pub(crate) trait Question: Sync {
    /// What it answers.
    type Answer: Send;

    /// What it must be allowed to do for that.
    fn need(&self) -> Need;

    /// Asks one endpoint.
    fn ask(&self, source: &Source) -> impl Future<Output = Result<Self::Answer, EndpointError>> + Send;
}

/// The endpoints of one pull.
pub(crate) struct Sources {
    pub(crate) list: Vec<Tracked>,
    pub(crate) retry: RetryPolicy,
}

/// One endpoint and how it has been doing in this pull.
pub(crate) struct Tracked {
    pub(crate) source: Source,
    pub(crate) metrics: EndpointMetrics,
    failures: AtomicU32,
}

impl Tracked {
    pub(crate) fn note(&self, error: &EndpointError) {
        self.failures.fetch_add(1, Ordering::Relaxed);
        self.metrics.failed(error);
    }
}

impl Sources {
    pub(crate) fn new(
        resolution: Resolution,
        reference: &Reference,
        credentials: Option<&Credentials>,
        clients: &Clients,
        metrics: &PullMetrics,
        retry: RetryPolicy,
    ) -> Self {
        let track = |endpoint: Endpoint| {
            let metrics = metrics.endpoint(&resolution.registry, &endpoint.url.origin());
            let source = clients.source(endpoint, reference, credentials);
            Tracked { source, metrics, failures: AtomicU32::new(0) }
        };
        Self { list: resolution.endpoints.into_iter().map(track).collect(), retry }
    }

    /// Asks one endpoint after the other until one answers.
    pub(crate) async fn first<T>(&self, question: &impl Question<Answer = T>) -> Result<T, AllFailed> {
        let mut rounds = Rounds::new(self, question.need());
        loop {
            for index in rounds.order() {
                let tracked = &self.list[index];
                match question.ask(&tracked.source).await {
                    Ok(answer) => return Ok(answer),
                    Err(error) => rounds.failed(index, error),
                }
            }
            rounds.pause().await?;
        }
    }
}

impl Sources {
    /// Asks each endpoint once, for what may as well stay unknown.
    pub(crate) async fn once<T>(&self, question: &impl Question<Answer = T>) -> Option<T> {
        let mut rounds = Rounds::new(self, question.need());
        for index in rounds.order() {
            match question.ask(&self.list[index].source).await {
                Ok(answer) => return Some(answer),
                Err(error) => rounds.failed(index, error),
            }
        }
        None
    }
}

/// One request's way through the endpoints.
pub(crate) struct Rounds<'a> {
    sources: &'a Sources,
    need: Need,
    /// The last failure of each endpoint.
    failures: Vec<Option<EndpointError>>,
    /// Endpoints whose failure will not pass.
    out: Vec<bool>,
    round: u32,
    started: Instant,
}

impl<'a> Rounds<'a> {
    pub(crate) fn new(sources: &'a Sources, need: Need) -> Self {
        let out = sources.list.iter().map(|t| !allowed(&t.source.endpoint, need)).collect();
        let failures = vec![None; sources.list.len()];
        Self { sources, need, failures, out, round: 0, started: Instant::now() }
    }

    /// Who is asked in this round, those without failures first.
    pub(crate) fn order(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.out.len()).filter(|i| !self.out[*i]).collect();
        order.sort_by_key(|i| self.sources.list[*i].failures.load(Ordering::Relaxed));
        order
    }

    pub(crate) fn failed(&mut self, index: usize, error: EndpointError) {
        let tracked = &self.sources.list[index];
        tracing::debug!(endpoint = %tracked.source.endpoint, %error, "an endpoint failed");
        tracked.note(&error);
        self.out[index] = !error.is_transient();
        self.failures[index] = Some(error);
    }

    /// Says that something was achieved, so that the rounds are counted anew.
    pub(crate) fn progressed(&mut self) {
        self.round = 0;
        self.started = Instant::now();
    }

    /// Takes an endpoint out for good, keeping why.
    pub(crate) fn banish(&mut self, index: usize, error: EndpointError) {
        self.failed(index, error);
        self.out[index] = true;
    }

    /// Waits for the next round, or says that there is none.
    pub(crate) async fn pause(&mut self) -> Result<(), AllFailed> {
        let retry = &self.sources.retry;
        let waiting =
            || self.failures.iter().zip(&self.out).filter(|(_, out)| !**out).filter_map(|(f, _)| f.as_ref());
        let asked_for = waiting().map(|e| e.retry_after().unwrap_or_default()).min();
        let back_off = retry.first_pause * 2u32.saturating_pow(self.round.min(16));
        self.round += 1;
        let pause = match asked_for {
            Some(asked_for) if self.round < retry.rounds && !self.registry_has_spoken() => {
                back_off.max(asked_for)
            }
            _ => return Err(self.all_failed()),
        };
        if self.started.elapsed() + pause > retry.patience {
            return Err(self.all_failed());
        }
        tokio::time::sleep(pause).await;
        Ok(())
    }

    /// Whether the registry itself has said no: mirrors that do not answer would not know better.
    fn registry_has_spoken(&self) -> bool {
        let is_final = |e: &EndpointError| {
            matches!(
                e,
                EndpointError::NotFound { .. }
                    | EndpointError::Denied { .. }
                    | EndpointError::Unauthenticated { .. }
            )
        };
        let registries =
            self.sources.list.iter().zip(&self.failures).filter(|(t, _)| t.source.endpoint.is_registry());
        registries.into_iter().any(|(_, failure)| failure.as_ref().is_some_and(is_final))
    }

    pub(crate) fn all_failed(&self) -> AllFailed {
        let failures = self.sources.list.iter().zip(&self.failures).map(|(tracked, error)| EndpointFailure {
            endpoint: tracked.source.endpoint.to_string(),
            is_registry: tracked.source.endpoint.is_registry(),
            error: error.clone().filter(|_| allowed(&tracked.source.endpoint, self.need)),
        });
        AllFailed { failures: failures.collect() }
    }
}

fn allowed(endpoint: &Endpoint, need: Need) -> bool {
    match need {
        Need::Resolve => endpoint.resolve,
        Need::Pull => endpoint.pull,
    }
}
