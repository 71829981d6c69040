//! What pulls count: by registry, and by the endpoint that did the work.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crisp_metrics::prometheus::{
    self, CounterVec, HistogramOpts, HistogramVec, IntCounterVec, IntGauge, Opts,
};
use crisp_metrics::{DURATION_BUCKETS, Metrics, Timer};

use crate::registry::{EndpointError, ErrorKind};

/// Registries told apart. References come from users; beyond this many they share the name `other`.
const MAX_REGISTRIES: usize = 200;

/// The collectors of all pulls.
#[derive(Clone)]
pub(crate) struct PullMetrics {
    pulls: IntCounterVec,
    seconds: HistogramVec,
    in_progress: IntGauge,
    endpoint_bytes: IntCounterVec,
    endpoint_seconds: CounterVec,
    endpoint_failures: IntCounterVec,
    known: Arc<Mutex<HashSet<String>>>,
    all: Metrics,
}

impl PullMetrics {
    pub(crate) fn register(metrics: &Metrics) -> Result<Self, prometheus::Error> {
        let endpoint = ["registry", "endpoint"];
        let new = Self {
            pulls: IntCounterVec::new(
                Opts::new("crisp_image_pulls_total", "Pulls that ended, by registry and outcome."),
                &["registry", "outcome"],
            )?,
            seconds: HistogramVec::new(
                HistogramOpts::new("crisp_image_pull_duration_seconds", "Time that whole pulls took.")
                    .buckets(DURATION_BUCKETS.to_vec()),
                &["registry"],
            )?,
            in_progress: IntGauge::new("crisp_image_pulls_in_progress", "Pulls under way.")?,
            endpoint_bytes: IntCounterVec::new(
                Opts::new("crisp_image_endpoint_received_bytes_total", "Layer bytes received."),
                &endpoint,
            )?,
            endpoint_seconds: CounterVec::new(
                Opts::new(
                    "crisp_image_endpoint_transfer_seconds_total",
                    "Time spent on requests for layers, parallel ones added up.",
                ),
                &endpoint,
            )?,
            endpoint_failures: IntCounterVec::new(
                Opts::new("crisp_image_endpoint_failures_total", "Requests that failed, by kind of failure."),
                &["registry", "endpoint", "kind"],
            )?,
            known: Arc::default(),
            all: metrics.clone(),
        };
        metrics.register(Box::new(new.pulls.clone()))?;
        metrics.register(Box::new(new.seconds.clone()))?;
        metrics.register(Box::new(new.in_progress.clone()))?;
        metrics.register(Box::new(new.endpoint_bytes.clone()))?;
        metrics.register(Box::new(new.endpoint_seconds.clone()))?;
        metrics.register(Box::new(new.endpoint_failures.clone()))?;
        Ok(new)
    }

    /// Measures one stage of a pull.
    pub(crate) fn stage(&self, stage: &'static str) -> Timer {
        self.all.stage("pull_image", stage)
    }

    /// Counts a pull from here until the answer is given or dropped.
    pub(crate) fn pull(&self, registry: &str) -> PullTimer {
        self.in_progress.inc();
        PullTimer {
            metrics: self.clone(),
            registry: self.registry_label(registry),
            started: Instant::now(),
            outcome: "failed",
        }
    }

    /// What one endpoint's requests of one pull are counted by.
    pub(crate) fn endpoint(&self, registry: &str, endpoint: &str) -> EndpointMetrics {
        let registry = self.registry_label(registry);
        let endpoint = if registry == "other" { "other" } else { endpoint };
        let labels = [registry.as_str(), endpoint];
        EndpointMetrics {
            bytes: self.endpoint_bytes.with_label_values(&labels),
            seconds: self.endpoint_seconds.with_label_values(&labels),
            failures: self.endpoint_failures.clone(),
            labels: labels.map(str::to_owned),
        }
    }

    fn registry_label(&self, registry: &str) -> String {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if !known.contains(registry) {
            if known.len() >= MAX_REGISTRIES {
                return "other".to_owned();
            }
            known.insert(registry.to_owned());
        }
        registry.to_owned()
    }
}

/// One pull, being counted.
pub(crate) struct PullTimer {
    metrics: PullMetrics,
    registry: String,
    started: Instant,
    outcome: &'static str,
}

impl PullTimer {
    pub(crate) fn ok(mut self) {
        self.outcome = "ok";
    }
}

impl Drop for PullTimer {
    fn drop(&mut self) {
        self.metrics.in_progress.dec();
        self.metrics.pulls.with_label_values(&[self.registry.as_str(), self.outcome]).inc();
        let seconds = self.started.elapsed().as_secs_f64();
        self.metrics.seconds.with_label_values(&[self.registry.as_str()]).observe(seconds);
    }
}

/// One endpoint of one pull.
pub(crate) struct EndpointMetrics {
    bytes: prometheus::IntCounter,
    seconds: prometheus::Counter,
    failures: IntCounterVec,
    labels: [String; 2],
}

impl EndpointMetrics {
    pub(crate) fn received(&self, bytes: u64, time: Duration) {
        self.bytes.inc_by(bytes);
        self.seconds.inc_by(time.as_secs_f64());
    }

    pub(crate) fn failed(&self, error: &EndpointError) {
        let kind = match error.kind() {
            ErrorKind::InvalidArgument => "invalid_argument",
            ErrorKind::NotFound => "not_found",
            ErrorKind::Unauthenticated => "unauthenticated",
            ErrorKind::PermissionDenied => "permission_denied",
            ErrorKind::ResourceExhausted => "resource_exhausted",
            ErrorKind::Unavailable => "unavailable",
            ErrorKind::DeadlineExceeded => "deadline_exceeded",
            ErrorKind::DataLoss => "data_loss",
            ErrorKind::Internal => "internal",
            ErrorKind::FailedPrecondition => "failed_precondition",
        };
        self.failures.with_label_values(&[self.labels[0].as_str(), self.labels[1].as_str(), kind]).inc();
    }
}
