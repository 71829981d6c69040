//! ListMetricDescriptors: the metrics that ListPodSandboxMetrics has samples of.

use crisp_proto::runtime::v1::{ListMetricDescriptorsResponse, MetricDescriptor};

use super::Reply;
use crate::pod_metrics::{Family, Subject, families};

pub(super) fn call() -> Reply<ListMetricDescriptorsResponse> {
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
