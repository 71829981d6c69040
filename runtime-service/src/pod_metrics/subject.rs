//! The subject of samples.

use crisp_executor::cgroup::CgroupPath;
use crisp_sandbox::Pod;

use crate::container::{Container, ImageMetadata};
use crate::service_state::cgroup_path;

/// A container, the cgroup of a pod, or the network of a pod, with the labels of cAdvisor.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Subject {
    /// The name in the pod; empty for the pod.
    pub container: String,
    /// The cgroup.
    pub id: String,
    /// Empty for the pod's cgroup, so that sums over all series with an image do not count it twice.
    pub image: String,
    /// The container's id; the pod's own for its network; empty for the pod's cgroup.
    pub name: String,
    pub namespace: String,
    pub pod: String,
}

impl Subject {
    /// In the order of [`values`](Self::values).
    pub const LABELS: [&'static str; 6] = ["container", "id", "image", "name", "namespace", "pod"];

    #[must_use]
    pub fn values(&self) -> [&str; 6] {
        [&self.container, &self.id, &self.image, &self.name, &self.namespace, &self.pod]
    }

    /// The pod's cgroup as a whole.
    #[must_use]
    pub fn of_pod(pod: &Pod) -> Self {
        Self {
            id: pod.whole_cgroup().to_string(),
            namespace: label(&pod.config.namespace),
            pod: label(&pod.config.name),
            ..Self::default()
        }
    }

    /// The pod's interfaces: in other runtimes they belong to a pause container, whose image dashboards
    /// select.
    #[must_use]
    pub fn of_network(pod: &Pod) -> Self {
        let id = pod.cgroup_parent().child(pod.id.as_str());
        Self { id: text(id), image: "crisp".to_owned(), name: pod.id.to_string(), ..Self::of_pod(pod) }
    }

    #[must_use]
    pub fn of_container(pod: &Pod, container: &Container) -> Self {
        let ImageMetadata { name, reference, .. } = &container.metadata.image;
        let image = if name.starts_with("sha256:") { reference } else { name };
        Self {
            container: label(&container.metadata.config.name),
            id: text(cgroup_path(pod, container.id())),
            image: label(image),
            name: container.id().to_string(),
            ..Self::of_pod(pod)
        }
    }
}

/// Limit for a label in bytes: it is repeated in each sample.
const LABEL_MAX: usize = 1024;

fn label(text: &str) -> String {
    let fits = |(at, character): &(usize, char)| at + character.len_utf8() <= LABEL_MAX;
    text.char_indices().take_while(fits).map(|(_, character)| character).collect()
}

/// Empty for a path that cannot be built.
fn text<E>(path: Result<CgroupPath, E>) -> String {
    path.map(|path| path.to_string()).unwrap_or_default()
}
