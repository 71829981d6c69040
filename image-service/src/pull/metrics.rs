//! Metrics of pulls, by registry. Metrics of endpoints are in [`crate::mirror`].

use std::time::Instant;

use crisp_metrics::prometheus::{self, HistogramOpts, HistogramVec, IntCounterVec, IntGauge, Opts};
use crisp_metrics::{DURATION_BUCKETS, Metrics};

use crate::mirror::MirrorMetrics;

/// The collectors of all pulls.
#[derive(Clone)]
pub(crate) struct PullMetrics {
    pulls: IntCounterVec,
    seconds: HistogramVec,
    in_progress: IntGauge,
    /// Metrics of the endpoints.
    pub(crate) mirrors: MirrorMetrics,
    /// Metrics of the stages.
    pub(crate) all: Metrics,
}

impl PullMetrics {
    pub(crate) fn register(metrics: &Metrics) -> Result<Self, prometheus::Error> {
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
            mirrors: MirrorMetrics::register(metrics)?,
            all: metrics.clone(),
        };
        metrics.register(Box::new(new.pulls.clone()))?;
        metrics.register(Box::new(new.seconds.clone()))?;
        metrics.register(Box::new(new.in_progress.clone()))?;
        Ok(new)
    }

    /// Measures a pull from now until it is dropped.
    pub(crate) fn pull(&self, registry: &str) -> PullTimer {
        self.in_progress.inc();
        PullTimer {
            metrics: self.clone(),
            registry: self.mirrors.registry_label(registry),
            started: Instant::now(),
            outcome: "failed",
        }
    }
}

/// One measured pull.
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
