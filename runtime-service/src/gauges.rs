//! Containers and pods by state, counted when Prometheus asks.

use std::sync::{Arc, Weak};

use crisp_metrics::prometheus::core::{Collector, Desc};
use crisp_metrics::prometheus::proto::MetricFamily;
use crisp_metrics::prometheus::{self, IntGaugeVec, Opts};

use crate::core::Core;

const CONTAINER_STATES: [&str; 5] = ["created", "starting", "running", "exited", "unknown"];

struct Containers {
    core: Weak<Core>,
    gauge: IntGaugeVec,
}

/// # Errors
/// When another metric has the name.
pub(crate) fn register(core: &Arc<Core>) -> Result<(), prometheus::Error> {
    let gauge = IntGaugeVec::new(Opts::new("crisp_containers", "Containers by state."), &["state"])?;
    core.metrics.register(Box::new(Containers { core: Arc::downgrade(core), gauge }))
}

impl Collector for Containers {
    fn desc(&self) -> Vec<&Desc> {
        self.gauge.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        for state in CONTAINER_STATES {
            self.gauge.with_label_values(&[state]).set(0);
        }
        for container in self.core.upgrade().iter().flat_map(|core| core.containers.all()) {
            self.gauge.with_label_values(&[container.status().state.name()]).inc();
        }
        self.gauge.collect()
    }
}
