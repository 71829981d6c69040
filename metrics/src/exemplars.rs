//! The last traced RPC of each bucket of [`FAMILY`]: the `prometheus` crate has no exemplars.
//!
//! Only traced RPCs take the lock. There are as many entries as buckets with one.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};

use prometheus::proto::LabelPair;

use crate::DURATION_BUCKETS;

/// The histogram with exemplars.
pub(crate) const FAMILY: &str = "crisp_rpc_duration_seconds";

/// Service, method, code.
pub(crate) type Series = [&'static str; 3];

/// An observation whose trace can be looked up.
#[derive(Debug, Clone)]
pub(crate) struct Exemplar {
    pub(crate) trace_id: String,
    pub(crate) value: f64,
    /// In seconds since 1970.
    pub(crate) at: f64,
}

/// Exemplars by series and number of the bucket.
#[derive(Debug, Default)]
pub(crate) struct Exemplars(Mutex<HashMap<Series, BTreeMap<usize, Exemplar>>>);

impl Exemplars {
    pub(crate) fn record(&self, series: Series, value: f64, trace_id: String, at: f64) {
        let bucket = DURATION_BUCKETS.partition_point(|bound| *bound < value);
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.entry(series).or_default().insert(bucket, Exemplar { trace_id, value, at });
    }

    /// The exemplars of one series, by number of the bucket.
    pub(crate) fn of_series(&self, family: &str, labels: &[LabelPair]) -> BTreeMap<usize, Exemplar> {
        if family != FAMILY {
            return BTreeMap::new();
        }
        let value = |name: &str| labels.iter().find(|label| label.name() == name).map(LabelPair::value);
        let wanted = ["service", "method", "code"].map(value);
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = all.iter().find(|(series, _)| series.map(Some) == wanted);
        found.map(|(_, exemplars)| exemplars.clone()).unwrap_or_default()
    }
}
