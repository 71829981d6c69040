//! Durations of the named stages of operations.

use std::time::Instant;

use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, Opts};

use crate::DURATION_BUCKETS;

pub(crate) fn histogram() -> Result<HistogramVec, prometheus::Error> {
    HistogramVec::new(
        HistogramOpts::new(
            "crisp_stage_duration_seconds",
            "Duration of one stage of an operation. Outcome: ok, failed or cancelled.",
        )
        .buckets(DURATION_BUCKETS.to_vec()),
        &["operation", "stage", "outcome"],
    )
}

pub(crate) fn undo_failures() -> Result<IntCounterVec, prometheus::Error> {
    let help = "Undo steps of failed operations that failed or missed their deadline.";
    IntCounterVec::new(Opts::new("crisp_undo_failures_total", help), &["operation", "stage"])
}

/// A stage under way. When it is dropped without [`ok`](Self::ok) or [`failed`](Self::failed), it counts as
/// cancelled.
#[must_use = "a timer that is dropped at once measures nothing"]
pub struct Timer {
    histogram: HistogramVec,
    operation: &'static str,
    stage: &'static str,
    started: Instant,
    outcome: &'static str,
}

impl Timer {
    pub(crate) fn start(histogram: HistogramVec, operation: &'static str, stage: &'static str) -> Self {
        Self { histogram, operation, stage, started: Instant::now(), outcome: "cancelled" }
    }

    /// Records that the stage succeeded.
    pub fn ok(mut self) {
        self.outcome = "ok";
    }

    /// Records that the stage failed.
    pub fn failed(mut self) {
        self.outcome = "failed";
    }

    /// Calls [`ok`](Self::ok) or [`failed`](Self::failed) according to `result`, and returns it.
    ///
    /// # Errors
    /// The error in `result`.
    pub fn done<T, E>(self, result: Result<T, E>) -> Result<T, E> {
        match result {
            Ok(value) => {
                self.ok();
                Ok(value)
            }
            Err(error) => {
                self.failed();
                Err(error)
            }
        }
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        self.histogram
            .with_label_values(&[self.operation, self.stage, self.outcome])
            .observe(self.started.elapsed().as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_are_counted_separately() {
        let histogram = histogram().unwrap();
        let timer = || Timer::start(histogram.clone(), "stop", "kill");
        timer().ok();
        timer().failed();
        drop(timer());
        assert_eq!(timer().done(Err::<(), _>("x")), Err("x"));
        let count = |outcome| histogram.with_label_values(&["stop", "kill", outcome]).get_sample_count();
        assert_eq!((count("ok"), count("failed"), count("cancelled")), (1, 2, 1));
    }
}
