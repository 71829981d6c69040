//! Containers and pods by state, counted during a scrape.

use std::sync::{Arc, Weak};

use crisp_metrics::Readiness;
use crisp_metrics::prometheus::core::{Collector, Desc};
use crisp_metrics::prometheus::proto::MetricFamily;
use crisp_metrics::prometheus::{self, IntGauge, IntGaugeVec, Opts};
use crisp_sandbox::PodState;

use crate::health::Condition;
use crate::pod_metrics;
use crate::service_state::ServiceState;

const CONTAINER_STATES: [&str; 6] = ["created", "starting", "running", "exited", "unknown", "removing"];

struct States {
    service: Weak<ServiceState>,
    containers: IntGaugeVec,
    pods: IntGaugeVec,
    event_readers: IntGauge,
    events_waiting: IntGauge,
}

/// # Errors
/// When another metric has the name.
pub(crate) fn register(service: &Arc<ServiceState>) -> Result<(), prometheus::Error> {
    let gauge = |name: &str, help: &str| IntGaugeVec::new(Opts::new(name, help), &["state"]);
    let weak = Arc::downgrade(service);
    service.metrics.set_pod_metrics(move |page| {
        if let Some(service) = weak.upgrade() {
            pod_metrics::write(&service, page);
        }
    });
    let weak = Arc::downgrade(service);
    service.metrics.set_readiness(move || Box::pin(readiness(weak.clone())));
    service.metrics.register(Box::new(States {
        service: Arc::downgrade(service),
        containers: gauge("crisp_containers", "Containers by state.")?,
        pods: gauge("crisp_pods", "Pods by state.")?,
        event_readers: IntGauge::new("crisp_event_readers", "Readers of container events.")?,
        events_waiting: IntGauge::new(
            "crisp_events_waiting",
            "Container events that the slowest reader has not taken.",
        )?,
    }))
}

/// The conditions in the response to Status.
async fn readiness(service: Weak<ServiceState>) -> Vec<Readiness> {
    let Some(service) = service.upgrade() else { return Vec::new() };
    let (runtime, network) = tokio::join!(
        service.health.runtime(service.layout.containers()),
        service.health.network(&service.pods)
    );
    let failure = |Condition { ready, reason, message }| (!ready).then(|| format!("{reason}: {message}"));
    vec![
        Readiness { name: "RuntimeReady", failure: failure(runtime) },
        Readiness { name: "NetworkReady", failure: failure(network) },
    ]
}

impl States {
    fn parts(&self) -> [&dyn Collector; 4] {
        [&self.containers, &self.pods, &self.event_readers, &self.events_waiting]
    }
}

impl Collector for States {
    fn desc(&self) -> Vec<&Desc> {
        self.parts().into_iter().flat_map(Collector::desc).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        // A state without containers is 0, not absent.
        CONTAINER_STATES.iter().for_each(|state| self.containers.with_label_values(&[*state]).set(0));
        PodState::NAMES.iter().for_each(|state| self.pods.with_label_values(&[*state]).set(0));
        if let Some(service) = self.service.upgrade() {
            for container in service.containers.all() {
                self.containers.with_label_values(&[container.status().state.name()]).inc();
            }
            let events = &service.events.sender;
            self.event_readers.set(i64::try_from(events.receiver_count()).unwrap_or(i64::MAX));
            self.events_waiting.set(i64::try_from(events.len()).unwrap_or(i64::MAX));
            for pod in service.pods.list() {
                self.pods.with_label_values(&[pod.status().state.name()]).inc();
            }
        }
        self.parts().into_iter().flat_map(Collector::collect).collect()
    }
}
