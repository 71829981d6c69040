//! Durations of the calls of CNI plugins. The same for all servers of a process, of which there is one.

use std::sync::LazyLock;
use std::time::Instant;

use crisp_metrics::prometheus::{self, HistogramOpts, HistogramVec};
use crisp_metrics::{DURATION_BUCKETS, Metrics};

use super::exec::Verb;

static CALLS: LazyLock<Result<HistogramVec, String>> = LazyLock::new(|| {
    let help = "Duration of one call of a CNI plugin. Outcome: ok or failed.";
    let options =
        HistogramOpts::new("crisp_cni_call_duration_seconds", help).buckets(DURATION_BUCKETS.to_vec());
    HistogramVec::new(options, &["plugin", "verb", "outcome"]).map_err(|error| error.to_string())
});

/// Puts the durations of plugin calls onto the page.
///
/// # Errors
/// When another metric has the name.
pub(crate) fn register(metrics: &Metrics) -> Result<(), prometheus::Error> {
    let calls = CALLS.as_ref().map_err(|error| prometheus::Error::Msg(error.clone()))?;
    metrics.register(Box::new(calls.clone()))
}

/// Notes the end of a call.
pub(super) fn ended(plugin: &str, verb: Verb, started: Instant, is_ok: bool) {
    if let Ok(calls) = &*CALLS {
        let outcome = if is_ok { "ok" } else { "failed" };
        calls.with_label_values(&[plugin, verb.as_str(), outcome]).observe(started.elapsed().as_secs_f64());
    }
}
