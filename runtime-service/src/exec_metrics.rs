//! The duration of commands of ExecSync, by outcome.

use crisp_metrics::prometheus::{self, HistogramOpts, HistogramVec};
use crisp_metrics::{DURATION_BUCKETS, Metrics};
use tokio::time::Instant;

/// The collector of all commands.
pub(crate) struct ExecMetrics(HistogramVec);

/// The ends of a command that was to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Exited,
    /// Its time limit has passed, and it was killed.
    Deadline,
    /// It could not be started, or its end is not known.
    Failed,
    /// Dropped before its end: the client has left, its own time limit has passed, or the server stops.
    Cancelled,
}

impl Outcome {
    fn label(self) -> &'static str {
        match self {
            Self::Exited => "exited",
            Self::Deadline => "deadline",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    pub(crate) fn of<T, E>(result: &Result<T, E>) -> Self {
        if result.is_ok() { Self::Exited } else { Self::Failed }
    }
}

impl ExecMetrics {
    pub(crate) fn register(metrics: &Metrics) -> Result<Self, prometheus::Error> {
        let options = HistogramOpts::new(
            "crisp_exec_duration_seconds",
            "Time from a request of ExecSync to the end of its command, with the start of it. \
             Outcome: exited, with any code; deadline, killed at its time limit; failed, not started or lost; \
             cancelled, dropped before its end: the client has left or the server stops.",
        );
        let seconds = HistogramVec::new(options.buckets(DURATION_BUCKETS.to_vec()), &["outcome"])?;
        // A rate needs the zero before the first command.
        for outcome in [Outcome::Exited, Outcome::Deadline, Outcome::Failed, Outcome::Cancelled] {
            seconds.with_label_values(&[outcome.label()]);
        }
        metrics.register(Box::new(seconds.clone()))?;
        Ok(Self(seconds))
    }

    /// Measures a command from now until the timer is dropped.
    pub(crate) fn start(&self) -> Timer<'_> {
        Timer { metrics: self, started: Instant::now(), outcome: Outcome::Cancelled }
    }
}

/// One measured command. When it is dropped without [`end`](Self::end), it counts as cancelled.
#[must_use = "a timer that is dropped at once measures nothing"]
pub(crate) struct Timer<'a> {
    metrics: &'a ExecMetrics,
    started: Instant,
    outcome: Outcome,
}

impl Timer<'_> {
    pub(crate) fn end(mut self, outcome: Outcome) {
        self.outcome = outcome;
    }
}

impl Drop for Timer<'_> {
    fn drop(&mut self) {
        let seconds = self.started.elapsed().as_secs_f64();
        self.metrics.0.with_label_values(&[self.outcome.label()]).observe(seconds);
    }
}
