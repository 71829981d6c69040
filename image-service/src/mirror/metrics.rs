//! Metrics of requests to endpoints, by registry and endpoint.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crisp_metrics::Metrics;
use crisp_metrics::prometheus::{self, CounterVec, IntCounterVec, Opts};

use crate::registry::{EndpointError, ErrorKind};

/// Limit for different registries. References come from users; further registries share the name `other`.
const MAX_REGISTRIES: usize = 200;

/// The collectors of all endpoints.
#[derive(Clone)]
pub(crate) struct MirrorMetrics {
    bytes: IntCounterVec,
    seconds: CounterVec,
    failures: IntCounterVec,
    failovers: IntCounterVec,
    retries: IntCounterVec,
    registries: Arc<Mutex<HashSet<String>>>,
}

impl MirrorMetrics {
    pub(crate) fn register(metrics: &Metrics) -> Result<Self, prometheus::Error> {
        let endpoint = ["registry", "endpoint"];
        let new = Self {
            bytes: IntCounterVec::new(
                Opts::new("crisp_image_endpoint_received_bytes_total", "Layer bytes received."),
                &endpoint,
            )?,
            seconds: CounterVec::new(
                Opts::new(
                    "crisp_image_endpoint_transfer_seconds_total",
                    "Time spent on requests for layers, parallel ones added up.",
                ),
                &endpoint,
            )?,
            failures: IntCounterVec::new(
                Opts::new("crisp_image_endpoint_failures_total", "Requests that failed, by kind of failure."),
                &["registry", "endpoint", "kind"],
            )?,
            failovers: IntCounterVec::new(
                Opts::new(
                    "crisp_image_endpoint_failovers_total",
                    "Requests that this endpoint answered after another one had failed.",
                ),
                &endpoint,
            )?,
            retries: IntCounterVec::new(
                Opts::new(
                    "crisp_image_retries_total",
                    "Pauses after which all endpoints of a registry were tried again.",
                ),
                &["registry"],
            )?,
            registries: Arc::default(),
        };
        metrics.register(Box::new(new.bytes.clone()))?;
        metrics.register(Box::new(new.seconds.clone()))?;
        metrics.register(Box::new(new.failures.clone()))?;
        metrics.register(Box::new(new.failovers.clone()))?;
        metrics.register(Box::new(new.retries.clone()))?;
        Ok(new)
    }

    /// The counters for one endpoint in one pull.
    pub(crate) fn endpoint(&self, registry: &str, endpoint: &str) -> EndpointMetrics {
        let registry = self.registry_label(registry);
        let endpoint = if registry == "other" { "other" } else { endpoint };
        let labels = [registry.as_str(), endpoint];
        EndpointMetrics {
            bytes: self.bytes.with_label_values(&labels),
            seconds: self.seconds.with_label_values(&labels),
            failures: self.failures.clone(),
            failovers: self.failovers.clone(),
            retries: self.retries.clone(),
            labels: labels.map(str::to_owned),
        }
    }

    /// The label of a registry.
    pub(crate) fn registry_label(&self, registry: &str) -> String {
        let mut registries = self.registries.lock().unwrap_or_else(PoisonError::into_inner);
        if !registries.contains(registry) {
            if registries.len() >= MAX_REGISTRIES {
                return "other".to_owned();
            }
            registries.insert(registry.to_owned());
        }
        registry.to_owned()
    }
}

/// One endpoint of one pull.
pub(crate) struct EndpointMetrics {
    bytes: prometheus::IntCounter,
    seconds: prometheus::Counter,
    failures: IntCounterVec,
    failovers: IntCounterVec,
    retries: IntCounterVec,
    labels: [String; 2],
}

impl EndpointMetrics {
    pub(crate) fn received(&self, bytes: u64, time: Duration) {
        self.bytes.inc_by(bytes);
        self.seconds.inc_by(time.as_secs_f64());
    }

    /// Counts a request that this endpoint answered after another one had failed.
    pub(crate) fn took_over(&self) {
        self.failovers.with_label_values(&self.labels.each_ref().map(String::as_str)).inc();
    }

    /// Counts another round over the endpoints of the registry.
    pub(crate) fn tried_again(&self) {
        self.retries.with_label_values(&[&self.labels[0]]).inc();
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
            ErrorKind::Cancelled => "cancelled",
            ErrorKind::DataLoss => "data_loss",
            ErrorKind::Internal => "internal",
            ErrorKind::FailedPrecondition => "failed_precondition",
        };
        self.failures.with_label_values(&[self.labels[0].as_str(), self.labels[1].as_str(), kind]).inc();
    }
}
