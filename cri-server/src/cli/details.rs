//! Details that the CRI's list of containers lacks, where the server is Crisp; and the state of a container
//! in words.

use std::collections::HashMap;

use crisp_operation::clock;
use crisp_proto::crisp::v1::{ContainerDetails, ListContainersRequest, StandaloneHealth};
use crisp_proto::runtime::v1::{Container, ContainerState};
use tonic::Code;

use super::Client;
use super::client::refused;
use super::standalone;
use crate::time::{ago, span};

/// Empty for another CRI server.
#[derive(Default)]
pub struct Details {
    /// By container id.
    containers: HashMap<String, ContainerDetails>,
    /// The health of containers that have checks, by the uid of their pod.
    health: HashMap<String, StandaloneHealth>,
}

/// The label with the uid of a container's pod.
const POD_UID: &str = "io.kubernetes.pod.uid";

impl Details {
    /// Asks the server.
    pub async fn load(client: &mut Client) -> anyhow::Result<Self> {
        let containers = match client.containers.list(ListContainersRequest {}).await {
            Ok(reply) => reply.into_inner().containers.into_iter(),
            Err(status) if status.code() == Code::Unimplemented => return Ok(Self::default()),
            Err(status) => return Err(refused(status)),
        };
        let pods = standalone::list(client).await?.into_iter();
        Ok(Self {
            containers: containers.map(|details| (details.container_id.clone(), details)).collect(),
            health: pods.filter_map(|pod| Some((pod.uid, pod.health?))).collect(),
        })
    }

    pub fn of(&self, id: &str) -> Option<&ContainerDetails> {
        self.containers.get(id)
    }

    /// The health of a running container that has checks.
    pub fn health(&self, container: &Container) -> Option<&StandaloneHealth> {
        let is_running = container.state() == ContainerState::ContainerRunning;
        self.health.get(container.labels.get(POD_UID)?).filter(|_| is_running)
    }

    /// ` (healthy)`, ` (unhealthy)` or ` (health: starting)`; empty without checks.
    fn health_words(&self, container: &Container) -> String {
        match self.health(container).map(|health| health.status.as_str()) {
            None => String::new(),
            Some("starting") => " (health: starting)".to_owned(),
            Some(status) => format!(" ({status})"),
        }
    }

    /// `created`, `running`, `paused`, `exited` or `unknown`.
    pub fn state(&self, container: &Container) -> &'static str {
        match container.state() {
            ContainerState::ContainerCreated => "created",
            ContainerState::ContainerRunning if self.of(&container.id).is_some_and(|d| d.paused) => "paused",
            ContainerState::ContainerRunning => "running",
            ContainerState::ContainerExited => "exited",
            ContainerState::ContainerUnknown => "unknown",
        }
    }

    /// As `Up 5 minutes (healthy)` and `Exited (0) 3 minutes ago`.
    pub fn status(&self, container: &Container) -> String {
        let details = self.of(&container.id);
        let up = || details.map_or(String::new(), |d| format!(" {}", span(d.started_at, clock::now())));
        match self.state(container) {
            "created" => "Created".to_owned(),
            "running" => format!("Up{}{}", up(), self.health_words(container)),
            "paused" => format!("Up{} (Paused)", up()),
            "exited" => details.map_or("Exited".to_owned(), |d| {
                format!("Exited ({}) {}", d.exit_code, ago(d.finished_at, clock::now()))
            }),
            _ => "Unknown".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_in_words() {
        let container =
            |state: ContainerState| Container { id: "a".into(), state: state.into(), ..Container::default() };
        let details = |paused| {
            let one = ContainerDetails {
                started_at: clock::now() - 120_000_000_000,
                finished_at: clock::now() - 7_200_000_000_000,
                exit_code: 3,
                paused,
                ..ContainerDetails::default()
            };
            Details { containers: HashMap::from([("a".to_owned(), one)]), ..Details::default() }
        };
        let running = container(ContainerState::ContainerRunning);
        assert_eq!(details(false).status(&running), "Up 2 minutes");
        assert_eq!(details(true).status(&running), "Up 2 minutes (Paused)");
        assert_eq!(details(true).state(&running), "paused");
        let exited = container(ContainerState::ContainerExited);
        assert_eq!(details(false).status(&exited), "Exited (3) 2 hours ago");
        assert_eq!(Details::default().status(&exited), "Exited");
        let mut checked = details(false);
        for (status, words) in
            [("starting", "(health: starting)"), ("healthy", "(healthy)"), ("unhealthy", "(unhealthy)")]
        {
            let health = StandaloneHealth { status: status.into(), ..StandaloneHealth::default() };
            checked.health.insert("u".to_owned(), health);
            let mut of_run = running.clone();
            of_run.labels.insert(POD_UID.to_owned(), "u".to_owned());
            assert_eq!(checked.status(&of_run), format!("Up 2 minutes {words}"));
            of_run.state = ContainerState::ContainerExited.into();
            assert!(checked.health(&of_run).is_none());
        }
    }
}
