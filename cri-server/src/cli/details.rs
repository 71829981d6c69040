//! Details that the CRI's list of containers lacks, where the server is Crisp; and the state of a container
//! in words.

use std::collections::HashMap;

use crisp_operation::clock;
use crisp_proto::crisp::v1::{ContainerDetails, ListContainersRequest};
use crisp_proto::runtime::v1::{Container, ContainerState};
use tonic::Code;

use super::Client;
use super::client::refused;
use crate::time::{ago, span};

/// By container id; empty for another CRI server.
#[derive(Default)]
pub struct Details(HashMap<String, ContainerDetails>);

impl Details {
    /// Asks the server.
    pub async fn load(client: &mut Client) -> anyhow::Result<Self> {
        match client.containers.list(ListContainersRequest {}).await {
            Ok(reply) => {
                let all = reply.into_inner().containers.into_iter();
                Ok(Self(all.map(|details| (details.container_id.clone(), details)).collect()))
            }
            Err(status) if status.code() == Code::Unimplemented => Ok(Self::default()),
            Err(status) => Err(refused(status)),
        }
    }

    pub fn of(&self, id: &str) -> Option<&ContainerDetails> {
        self.0.get(id)
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

    /// As `Up 5 minutes` and `Exited (0) 3 minutes ago`.
    pub fn status(&self, container: &Container) -> String {
        let details = self.of(&container.id);
        let up = || details.map_or(String::new(), |d| format!(" {}", span(d.started_at, clock::now())));
        match self.state(container) {
            "created" => "Created".to_owned(),
            "running" => format!("Up{}", up()),
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
            Details(HashMap::from([("a".to_owned(), one)]))
        };
        let running = container(ContainerState::ContainerRunning);
        assert_eq!(details(false).status(&running), "Up 2 minutes");
        assert_eq!(details(true).status(&running), "Up 2 minutes (Paused)");
        assert_eq!(details(true).state(&running), "paused");
        let exited = container(ContainerState::ContainerExited);
        assert_eq!(details(false).status(&exited), "Exited (3) 2 hours ago");
        assert_eq!(Details::default().status(&exited), "Exited");
    }
}
