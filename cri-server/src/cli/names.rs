//! The ways in which people name containers and pods: an id, the beginning of an id, a name, or POD/NAME.

use anyhow::{anyhow, bail};
use crisp_proto::runtime::v1::{
    Container, ContainerState, ListContainersRequest, ListPodSandboxRequest, PodSandbox,
};

use super::Client;
use super::client::refused;
use crate::run::image::OF_IMAGE;
use crate::table::short;

/// All containers and pods of the server, for looking up names.
pub struct Names {
    pub containers: Vec<Container>,
    pub pods: Vec<PodSandbox>,
}

/// The object that a name stands for.
pub enum Target<'a> {
    Container(&'a Container),
    Pod(&'a PodSandbox),
}

impl Names {
    /// Requests all containers and pods from the server.
    pub async fn load(client: &mut Client) -> anyhow::Result<Self> {
        let containers = client.runtime.list_containers(ListContainersRequest::default()).await;
        let pods = client.runtime.list_pod_sandbox(ListPodSandboxRequest::default()).await;
        Ok(Self {
            containers: containers.map_err(refused)?.into_inner().containers,
            pods: pods.map_err(refused)?.into_inner().items,
        })
    }

    /// Name of a pod by its id; empty when the pod is gone.
    pub fn pod_name(&self, id: &str) -> &str {
        self.pods.iter().find(|p| p.id == id).map_or("", pod_name)
    }

    /// The container that `text` stands for.
    pub fn container(&self, text: &str) -> anyhow::Result<&Container> {
        let found = self.matching_containers(text);
        match found[..] {
            [] => bail!("no container {text:?}; `crisp ps -a` lists them all"),
            [one] => Ok(one),
            _ => Err(self.ambiguous(text, &found)),
        }
    }

    /// The pod that `text` stands for.
    pub fn pod(&self, text: &str) -> anyhow::Result<&PodSandbox> {
        let found = self.matching_pods(text);
        match found[..] {
            [] => bail!("no pod {text:?}; `crisp pods` lists them all"),
            [one] => Ok(one),
            _ => {
                let list: Vec<_> =
                    found.iter().map(|p| format!("{} ({})", short(&p.id), pod_name(p))).collect();
                bail!("{text:?} may be any of the pods {}; say an id", list.join(", "))
            }
        }
    }

    /// A container or a pod. `pod/TEXT` is always a pod.
    pub fn either(&self, text: &str) -> anyhow::Result<Target<'_>> {
        if let Some(pod) = text.strip_prefix("pod/") {
            return self.pod(pod).map(Target::Pod);
        }
        match (self.matching_containers(text).is_empty(), self.matching_pods(text).is_empty()) {
            (true, true) => {
                bail!("no container and no pod {text:?}; `crisp ps -a` and `crisp pods` list them all")
            }
            (false, true) => self.container(text).map(Target::Container),
            (true, false) => self.pod(text).map(Target::Pod),
            // A pod of `crisp run IMAGE` has the same name as its only container.
            (false, false) => match self.of_image(text) {
                Some(container) => Ok(Target::Container(container)),
                None => bail!("{text:?} is both a container and a pod: say pod/{text}, or an id"),
            },
        }
    }

    /// The only container with the name, if its pod has the name too.
    fn of_image(&self, text: &str) -> Option<&Container> {
        let (Ok(container), Ok(pod)) = (self.container(text), self.pod(text)) else { return None };
        (self.image_pod(container)?.id == pod.id).then_some(container)
    }

    /// The pod of a container of `crisp run IMAGE`: operations on the container apply to its pod.
    pub fn image_pod(&self, container: &Container) -> Option<&PodSandbox> {
        let pod = self.pods.iter().find(|pod| pod.id == container.pod_sandbox_id)?;
        pod.annotations.contains_key(OF_IMAGE).then_some(pod)
    }

    fn matching_containers(&self, text: &str) -> Vec<&Container> {
        if let Some(exact) = self.containers.iter().find(|c| c.id == text) {
            return vec![exact];
        }
        let named: Vec<_> = match text.split_once('/') {
            Some((pod, name)) => self
                .containers
                .iter()
                .filter(|c| container_name(c) == name && self.pod_name(&c.pod_sandbox_id) == pod)
                .collect(),
            None => self.containers.iter().filter(|c| container_name(c) == text).collect(),
        };
        if !named.is_empty() {
            return newest_of_each_pod(named);
        }
        self.containers.iter().filter(|c| !text.is_empty() && c.id.starts_with(text)).collect()
    }

    fn matching_pods(&self, text: &str) -> Vec<&PodSandbox> {
        if let Some(exact) = self.pods.iter().find(|p| p.id == text) {
            return vec![exact];
        }
        let named: Vec<_> =
            self.pods.iter().filter(|p| pod_name(p) == text || full_name(p) == text).collect();
        if !named.is_empty() {
            return named;
        }
        self.pods.iter().filter(|p| !text.is_empty() && p.id.starts_with(text)).collect()
    }

    fn ambiguous(&self, text: &str, found: &[&Container]) -> anyhow::Error {
        let name = |c: &Container| {
            format!("{} ({}/{})", short(&c.id), self.pod_name(&c.pod_sandbox_id), container_name(c))
        };
        let list: Vec<_> = found.iter().map(|c| name(c)).collect();
        anyhow!("{text:?} may be any of {}; say POD/NAME or an id", list.join(", "))
    }
}

/// Earlier containers of the same name may still exist: the running one is chosen, else the newest.
fn newest_of_each_pod(named: Vec<&Container>) -> Vec<&Container> {
    let mut newest: Vec<&Container> = Vec::new();
    let rank = |c: &Container| (c.state() == ContainerState::ContainerRunning, c.created_at);
    for container in named {
        match newest.iter_mut().find(|n| n.pod_sandbox_id == container.pod_sandbox_id) {
            Some(other) if rank(container) > rank(other) => *other = container,
            Some(_) => {}
            None => newest.push(container),
        }
    }
    newest
}

/// The container's name in its pod.
pub fn container_name(container: &Container) -> &str {
    container.metadata.as_ref().map_or("", |m| &m.name)
}

/// The pod's name.
pub fn pod_name(pod: &PodSandbox) -> &str {
    pod.metadata.as_ref().map_or("", |m| &m.name)
}

fn full_name(pod: &PodSandbox) -> String {
    pod.metadata.as_ref().map_or(String::new(), |m| format!("{}/{}", m.namespace, m.name))
}

#[cfg(test)]
mod tests {
    use crisp_proto::runtime::v1::{ContainerMetadata, PodSandboxMetadata};

    use super::*;

    fn container(id: &str, pod: &str, name: &str, state: ContainerState, created_at: i64) -> Container {
        Container {
            id: id.into(),
            pod_sandbox_id: pod.into(),
            metadata: Some(ContainerMetadata { name: name.into(), attempt: 0 }),
            state: state.into(),
            created_at,
            ..Container::default()
        }
    }

    fn pod(id: &str, name: &str) -> PodSandbox {
        let metadata = PodSandboxMetadata { name: name.into(), namespace: "ns".into(), ..Default::default() };
        PodSandbox { id: id.into(), metadata: Some(metadata), ..PodSandbox::default() }
    }

    fn names() -> Names {
        use ContainerState::{ContainerExited, ContainerRunning};
        Names {
            containers: vec![
                container("aa1", "p1", "web", ContainerExited, 9),
                container("aa2", "p1", "web", ContainerRunning, 5),
                container("ab3", "p2", "db", ContainerRunning, 6),
                container("ac4", "p2", "side", ContainerRunning, 6),
                container("ad5", "p1", "side", ContainerRunning, 6),
                container("ae6", "p1", "shop", ContainerRunning, 6),
            ],
            pods: vec![pod("p1", "shop"), pod("p2", "store")],
        }
    }

    #[test]
    fn a_container_of_an_image_run_and_its_pod_are_one() {
        let mut names = names();
        names.pods[0].annotations.insert(OF_IMAGE.to_owned(), "true".to_owned());
        assert!(matches!(names.either("shop"), Ok(Target::Container(c)) if c.id == "ae6"));
        assert!(matches!(names.either("pod/shop"), Ok(Target::Pod(p)) if p.id == "p1"));
        assert!(names.image_pod(names.container("db").unwrap()).is_none());
    }

    #[test]
    fn ids_prefixes_and_names_are_understood() {
        let names = names();
        let found = |text| names.container(text).map(|c| c.id.clone()).map_err(|e| e.to_string());
        assert_eq!(found("aa1"), Ok("aa1".into()));
        assert_eq!(found("ab"), Ok("ab3".into()));
        assert_eq!(found("web"), Ok("aa2".into()), "the running one is meant");
        assert_eq!(found("store/side"), Ok("ac4".into()));
        assert!(found("side").unwrap_err().contains("store/side"));
        assert!(found("aa").unwrap_err().contains("any of"));
        assert!(found("nothing").unwrap_err().contains("crisp ps -a"));
        assert!(found("").is_err());
    }

    #[test]
    fn a_name_of_both_kinds_must_be_told_apart() {
        let names = names();
        assert!(matches!(names.either("ns/store"), Ok(Target::Pod(p)) if p.id == "p2"));
        assert!(matches!(names.either("pod/shop"), Ok(Target::Pod(p)) if p.id == "p1"));
        assert!(matches!(names.either("db"), Ok(Target::Container(_))));
        assert!(names.either("shop").is_err());
        assert!(names.either("nothing").is_err());
    }
}
