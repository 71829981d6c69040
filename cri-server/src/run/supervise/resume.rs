//! The start of a pod's containers with the files that they have written, each once.

use std::sync::Arc;

use crisp_proto::crisp::v1::ResetContainerRequest;
use crisp_proto::crisp::v1::containers_server::Containers as _;
use crisp_proto::runtime::v1::runtime_service_server::RuntimeService as _;
use crisp_proto::runtime::v1::{
    ContainerState, ContainerStatus, ContainerStatusRequest, StartContainerRequest,
};
use tonic::Request;

use super::super::container_find;
use super::super::pod_run::PodRun;
use super::super::pod_start::Found;
use super::super::run_status::change;
use super::pod::SupervisedPod;
use crate::rpc_error::refused;
use crate::server::Server;

impl SupervisedPod {
    /// Starts the containers that ended when the pod was stopped.
    ///
    /// # Errors
    /// The runtime's error, or the disk's.
    pub(super) async fn resume(&self, run: &PodRun) -> anyhow::Result<()> {
        match run.find_intact().await {
            // Very likely they run.
            Found::Silent(_) => return Ok(()),
            Found::Nothing | Found::Ended(_) => {}
            Found::Ready(id) => {
                for container in &self.pod.containers {
                    self.resume_container(&run.server, &id, &container.name).await?;
                }
            }
        }
        change(&self.status, |status| status.is_resuming = false).await
    }

    async fn resume_container(&self, server: &Arc<Server>, pod: &str, name: &str) -> anyhow::Result<()> {
        let Some(container) = container_find::newest(server, pod, name).await? else { return Ok(()) };
        let status = status_of(server, &container.id).await?;
        let started_at = status.started_at;
        let before = self.status.get().started_before.get(name).copied();
        if was_started(&status, before) {
            return Ok(());
        }
        if before.is_none() {
            // Recorded before the start: if that cannot be recorded, the container is not started once more.
            let name = name.to_owned();
            change(&self.status, move |status| {
                status.started_before.insert(name.clone(), started_at);
            })
            .await?;
        }
        start(server, status).await
    }
}

/// Whether it runs, or was started after `before` was recorded.
fn was_started(status: &ContainerStatus, before: Option<i64>) -> bool {
    let is_other = |before| status.started_at != before && status.started_at != 0;
    status.state() == ContainerState::ContainerRunning || before.is_some_and(is_other)
}

async fn status_of(server: &Server, id: &str) -> anyhow::Result<ContainerStatus> {
    let request = ContainerStatusRequest { container_id: id.to_owned(), verbose: false };
    let reply = server.runtime.container_status(Request::new(request)).await.map_err(refused)?;
    Ok(reply.into_inner().status.unwrap_or_default())
}

async fn start(server: &Server, status: ContainerStatus) -> anyhow::Result<()> {
    let container_id = status.id.clone();
    if status.state() != ContainerState::ContainerCreated {
        let reset = ResetContainerRequest { container_id: container_id.clone() };
        server.runtime.reset(Request::new(reset)).await.map_err(refused)?;
    }
    let start = StartContainerRequest { container_id };
    server.runtime.start_container(Request::new(start)).await.map_err(refused)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_is_started_once() {
        let status = |state: ContainerState, started_at| ContainerStatus {
            state: state.into(),
            started_at,
            ..ContainerStatus::default()
        };
        use ContainerState::{ContainerCreated, ContainerExited, ContainerRunning};
        for (state, started_at, before, was) in [
            (ContainerRunning, 5, None, true),
            (ContainerExited, 5, None, false),
            (ContainerExited, 5, Some(5), false),
            (ContainerExited, 9, Some(5), true),
            // The clock was set back meanwhile.
            (ContainerExited, 3, Some(5), true),
            (ContainerCreated, 0, Some(5), false),
            (ContainerCreated, 0, Some(0), false),
            (ContainerExited, 9, Some(0), true),
        ] {
            let found = was_started(&status(state, started_at), before);
            assert_eq!(found, was, "{state:?} {started_at} {before:?}");
        }
    }
}
