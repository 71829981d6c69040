//! `crisp wait`: waits until containers end.

use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use crisp_proto::runtime::v1::{
    ContainerEventResponse, ContainerEventType, ContainerState, ContainerStatusRequest, GetEventsRequest,
};
use tonic::{Code, Status};

use super::Client;
use super::client::refused;
use super::names::Names;
use super::reconnect::Reconnect;
use crate::print;

/// Pause between two status requests while no event comes: a starting server sends no events of the past.
const TICK: Duration = Duration::from_secs(1);

/// Wait for containers to end, and print their exit codes
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  code=$(crisp wait job)")]
pub struct Wait {
    /// Containers, as ids, beginnings of ids, NAME or POD/NAME
    #[arg(required = true)]
    names: Vec<String>,
}

impl Wait {
    pub async fn run(self, mut client: Client) -> anyhow::Result<ExitCode> {
        let known = Names::load(&mut client).await?;
        let mut code = ExitCode::SUCCESS;
        for name in &self.names {
            let ended = async {
                let id = known.container(name)?.id.clone();
                exit_code(&mut client, &id).await
            };
            match ended.await {
                Ok(ended) => writeln!(std::io::stdout(), "{ended}")?,
                Err(error) => {
                    print::warning(format_args!("crisp: {name}: {error:#}"));
                    code = ExitCode::FAILURE;
                }
            }
        }
        Ok(code)
    }
}

/// Waits for the container's end. When the server restarts meanwhile, the request is repeated.
///
/// # Errors
/// The container is removed before its end is seen, or the server stays away for long.
pub async fn exit_code(client: &mut Client, id: &str) -> anyhow::Result<i32> {
    let mut reconnect = Reconnect::default();
    loop {
        match until_end(client, id, &mut reconnect).await {
            Ok(code) => return code.with_context(|| format!("container {id} was removed")),
            Err(status) if reconnect.may_repeat(&status) => tokio::time::sleep(TICK).await,
            Err(status) => return Err(refused(status)),
        }
    }
}

/// Returns None when the container was removed before its end was seen.
async fn until_end(client: &mut Client, id: &str, reconnect: &mut Reconnect) -> Result<Option<i32>, Status> {
    // Opened before the first status request, so that no end is missed.
    let mut events = match client.runtime.get_container_events(GetEventsRequest {}).await {
        Ok(events) => Some(events.into_inner()),
        Err(status) if status.code() == Code::Unimplemented => None,
        Err(status) => return Err(status),
    };
    loop {
        let code = now(client, id).await?;
        reconnect.answered();
        if let Some(code) = code {
            return Ok(code);
        }
        let event = async {
            match &mut events {
                Some(stream) => stream.message().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            event = event => match event.map_err(|_| Status::unavailable("the server has ended"))? {
                // By now the status may be that of the next run, or gone.
                Some(event) => if let Some(code) = end_in(&event, id) { return Ok(Some(code)) },
                None => return Err(Status::unavailable("the server has ended")),
            },
            () = tokio::time::sleep(TICK) => {}
        }
    }
}

/// The exit code of a container that has ended; `Some(None)` when the container is gone.
pub(super) async fn now(client: &mut Client, id: &str) -> Result<Option<Option<i32>>, Status> {
    let request = ContainerStatusRequest { container_id: id.to_owned(), verbose: false };
    match client.runtime.container_status(request).await {
        Ok(reply) => {
            let status = reply.into_inner().status.unwrap_or_default();
            Ok((status.state() == ContainerState::ContainerExited).then_some(Some(status.exit_code)))
        }
        Err(status) if status.code() == Code::NotFound => Ok(Some(None)),
        Err(status) => Err(status),
    }
}

/// The code in the event of the container's end.
fn end_in(event: &ContainerEventResponse, id: &str) -> Option<i32> {
    if event.container_id != id || event.container_event_type() != ContainerEventType::ContainerStoppedEvent {
        return None;
    }
    let status = event.containers_statuses.iter().find(|status| status.id == id)?;
    (status.state() == ContainerState::ContainerExited).then_some(status.exit_code)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use crisp_proto::runtime::v1::{ContainerStatus, ContainerStatusResponse};

    use super::super::tests_server::{Reply, client};
    use super::*;

    /// The reply of each second: the server restarts at 2 and 102, and the container ends at 200.
    fn reply(second: u32) -> Reply {
        let state = match second {
            2 | 102 => return Reply::Refusal(Status::unavailable("the server restarts")),
            200.. => ContainerState::ContainerExited,
            _ => ContainerState::ContainerRunning,
        };
        let status = ContainerStatus { state: state.into(), exit_code: 3, ..ContainerStatus::default() };
        Reply::Container(Box::new(ContainerStatusResponse { status: Some(status), ..Default::default() }))
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_outlives_two_restarts_of_the_server() {
        let seconds = AtomicU32::new(0);
        let mut client = client(move |method| match method {
            "ContainerStatus" => reply(seconds.fetch_add(1, Ordering::Relaxed)),
            method => Reply::Refusal(Status::unimplemented(method)),
        })
        .await;
        assert_eq!(exit_code(&mut client, "a").await.unwrap(), 3);
    }

    #[test]
    fn the_event_of_an_end_has_the_code() {
        let event = |kind: ContainerEventType, state: ContainerState| ContainerEventResponse {
            container_id: "a".into(),
            container_event_type: kind.into(),
            containers_statuses: vec![ContainerStatus {
                id: "a".into(),
                state: state.into(),
                exit_code: 137,
                ..ContainerStatus::default()
            }],
            ..ContainerEventResponse::default()
        };
        let stopped = ContainerEventType::ContainerStoppedEvent;
        assert_eq!(end_in(&event(stopped, ContainerState::ContainerExited), "a"), Some(137));
        assert_eq!(end_in(&event(stopped, ContainerState::ContainerExited), "b"), None);
        // Started again before it was sent.
        assert_eq!(end_in(&event(stopped, ContainerState::ContainerRunning), "a"), None);
        let started = ContainerEventType::ContainerStartedEvent;
        assert_eq!(end_in(&event(started, ContainerState::ContainerExited), "a"), None);
    }
}
