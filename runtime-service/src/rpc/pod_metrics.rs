//! Metrics of pods and containers in the form of cAdvisor.

use std::sync::Arc;

use crisp_proto::runtime::v1 as proto;
use crisp_proto::runtime::v1::{
    ListMetricDescriptorsResponse, ListPodSandboxMetricsResponse, MetricDescriptor, PodSandboxMetrics,
    StreamPodSandboxMetricsResponse,
};

use super::messages::{MessageStream, in_messages};
use super::{Reply, ServiceState};
use crate::pod_metrics::{Family, Kind, Samples, Scrape, Subject, Value, families};

/// ListMetricDescriptors: the metrics that ListPodSandboxMetrics has samples of.
pub(super) fn list_metric_descriptors() -> Reply<ListMetricDescriptorsResponse> {
    Ok(ListMetricDescriptorsResponse { descriptors: families().map(descriptor).collect() })
}

fn descriptor(family: &Family) -> MetricDescriptor {
    let labels = Subject::LABELS.iter().chain(family.labels);
    MetricDescriptor {
        name: family.name.to_owned(),
        help: family.help.to_owned(),
        label_keys: labels.map(|label| (*label).to_owned()).collect(),
    }
}

/// ListPodSandboxMetrics: the metrics that cAdvisor would have of pods and containers with processes. A
/// subject has about 20 KB, so the response fits into kubelet's 16 MiB up to some 800 of them.
pub(super) async fn list_pod_sandbox_metrics(
    service: &Arc<ServiceState>,
) -> Reply<ListPodSandboxMetricsResponse> {
    Ok(ListPodSandboxMetricsResponse { pod_metrics: all(service).await })
}

/// The metrics of every pod with processes.
pub(super) async fn all(service: &Arc<ServiceState>) -> Vec<PodSandboxMetrics> {
    let service = service.clone();
    let read = move || {
        let mut scrape = Scrape::take(&service);
        (0..scrape.pods.len()).map(|pod| of_pod(&mut scrape, pod)).collect()
    };
    tokio::task::spawn_blocking(read).await.unwrap_or_default()
}

fn of_pod(scrape: &mut Scrape<'_>, index: usize) -> PodSandboxMetrics {
    let pod = scrape.pods[index].pod.clone();
    let containers: Vec<_> = scrape.pods[index].containers.iter().map(|one| one.container.clone()).collect();
    let mut metrics = Metrics::of(&Subject::of_pod(&pod));
    scrape.pod(index, &mut metrics);
    metrics.labels = Metrics::of(&Subject::of_network(&pod)).labels;
    scrape.network(index, &mut metrics);
    let container_metrics = containers.iter().enumerate().map(|(number, container)| {
        let mut metrics = Metrics::of(&Subject::of_container(&pod, container));
        scrape.container(index, number, &mut metrics);
        proto::ContainerMetrics { container_id: container.id().to_string(), metrics: metrics.list }
    });
    PodSandboxMetrics {
        pod_sandbox_id: pod.id.to_string(),
        container_metrics: container_metrics.collect(),
        metrics: metrics.list,
    }
}

/// The samples of one subject as messages.
struct Metrics {
    labels: Vec<String>,
    list: Vec<proto::Metric>,
}

impl Metrics {
    fn of(subject: &Subject) -> Self {
        Self { labels: subject.values().map(str::to_owned).to_vec(), list: Vec::new() }
    }
}

impl Samples for Metrics {
    fn add(&mut self, family: &'static Family, labels: &[&str], value: Value) {
        let kind = match family.kind {
            Kind::Counter => proto::MetricType::Counter,
            Kind::Gauge => proto::MetricType::Gauge,
        };
        self.list.push(proto::Metric {
            name: family.name.to_owned(),
            // Filled in for this reply.
            timestamp: 0,
            metric_type: kind.into(),
            label_values: self
                .labels
                .iter()
                .cloned()
                .chain(labels.iter().map(|label| (*label).to_owned()))
                .collect(),
            value: Some(proto::UInt64Value { value: value.whole() }),
        });
    }
}

/// StreamPodSandboxMetrics: the result of ListPodSandboxMetrics in several messages.
pub(super) async fn stream_pod_sandbox_metrics(
    service: &Arc<ServiceState>,
) -> Reply<MessageStream<StreamPodSandboxMetricsResponse>> {
    let all = all(service).await;
    let message = |pod_sandbox_metrics| StreamPodSandboxMetricsResponse { pod_sandbox_metrics };
    Ok(in_messages(all, message))
}
