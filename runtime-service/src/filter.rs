//! Filters of list requests. An id matches by its beginning.

use std::collections::BTreeMap;
use std::sync::Arc;

use crisp_proto::runtime::v1 as proto;
use crisp_sandbox::Pod;

use crate::container::Container;
use crate::convert::response;
use crate::service_state::ServiceState;

/// Conditions that must all be true. An empty text or map matches everything.
#[derive(Debug, Default)]
pub struct Filter {
    pub id: String,
    pub pod: String,
    /// Number of the proto enum.
    pub state: Option<i32>,
    pub labels: BTreeMap<String, String>,
}

impl From<Option<proto::ContainerFilter>> for Filter {
    fn from(filter: Option<proto::ContainerFilter>) -> Self {
        let filter = filter.unwrap_or_default();
        Self {
            id: filter.id,
            pod: filter.pod_sandbox_id,
            state: filter.state.map(|s| s.state),
            labels: filter.label_selector,
        }
    }
}

impl From<Option<proto::ContainerStatsFilter>> for Filter {
    fn from(filter: Option<proto::ContainerStatsFilter>) -> Self {
        let filter = filter.unwrap_or_default();
        Self { id: filter.id, pod: filter.pod_sandbox_id, state: None, labels: filter.label_selector }
    }
}

impl From<Option<proto::PodSandboxFilter>> for Filter {
    fn from(filter: Option<proto::PodSandboxFilter>) -> Self {
        let filter = filter.unwrap_or_default();
        Self {
            id: filter.id,
            pod: String::new(),
            state: filter.state.map(|s| s.state),
            labels: filter.label_selector,
        }
    }
}

impl From<Option<proto::PodSandboxStatsFilter>> for Filter {
    fn from(filter: Option<proto::PodSandboxStatsFilter>) -> Self {
        let filter = filter.unwrap_or_default();
        Self { id: filter.id, pod: String::new(), state: None, labels: filter.label_selector }
    }
}

impl Filter {
    /// The containers that match, oldest first.
    #[must_use]
    pub fn containers(&self, service: &ServiceState) -> Vec<Arc<Container>> {
        let mut all = service.containers.all();
        all.retain(|container| {
            let metadata = &container.metadata;
            metadata.id.as_str().starts_with(&self.id)
                && metadata.pod.as_str().starts_with(&self.pod)
                && self.has_labels(&metadata.config.labels)
                && self
                    .state
                    .is_none_or(|state| response::container_state(&container.status().state) as i32 == state)
        });
        all.sort_by_key(|container| container.metadata.created_at);
        all
    }

    /// The pods that match, oldest first.
    #[must_use]
    pub fn pods(&self, service: &ServiceState) -> Vec<Arc<Pod>> {
        let mut all = service.pods.list();
        all.retain(|pod| {
            pod.id.as_str().starts_with(&self.id)
                && self.has_labels(&pod.config.labels)
                && self.state.is_none_or(|state| response::pod_state(&pod.status().state) as i32 == state)
        });
        all
    }

    fn has_labels(&self, labels: &BTreeMap<String, String>) -> bool {
        self.labels.iter().all(|(name, value)| labels.get(name) == Some(value))
    }
}
