//! Operations under way, counted during a scrape.

use std::collections::BTreeMap;
use std::time::Duration;

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Gauge, IntGaugeVec, Opts};

use crate::Operations;

pub(crate) struct RunningCollector {
    operations: Operations,
    running: IntGaugeVec,
    longest: Gauge,
}

impl RunningCollector {
    pub(crate) fn new(operations: Operations) -> Result<Self, prometheus::Error> {
        let running = Opts::new("crisp_operations_running", "Operations that have begun and not ended.");
        let longest = Opts::new(
            "crisp_operation_longest_seconds",
            "How long the oldest operation under way has taken so far; 0 without one.",
        );
        Ok(Self {
            operations,
            running: IntGaugeVec::new(running, &["operation"])?,
            longest: Gauge::with_opts(longest)?,
        })
    }
}

impl Collector for RunningCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.running.desc().into_iter().chain(self.longest.desc()).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let list = self.operations.list(Duration::ZERO);
        let mut counts = BTreeMap::new();
        for operation in &list {
            *counts.entry(operation.operation).or_insert(0) += 1;
        }
        self.running.reset();
        for (operation, count) in counts {
            self.running.with_label_values(&[operation]).set(count);
        }
        let longest = list.iter().map(|operation| operation.since).max();
        self.longest.set(longest.unwrap_or_default().as_secs_f64());
        self.running.collect().into_iter().chain(self.longest.collect()).collect()
    }
}

#[cfg(test)]
mod tests {
    use crate::Metrics;

    #[test]
    fn operations_are_on_the_page_while_they_run() {
        let metrics = Metrics::new("test").unwrap();
        assert!(metrics.text().contains("crisp_operation_longest_seconds 0\n"));
        let running = metrics.operations().begin("run_pod", "pod a".to_owned());
        let second = metrics.operations().begin("run_pod", "pod b".to_owned());
        assert!(metrics.text().contains("crisp_operations_running{operation=\"run_pod\"} 2\n"));
        assert!(!metrics.text().contains("crisp_operation_longest_seconds 0\n"));
        drop((running, second));
        assert!(!metrics.text().contains("crisp_operations_running{"), "no series stays");
    }
}
