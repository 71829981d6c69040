//! Sends a signal to the first process of a container. The process decides how it reacts.

use std::sync::Arc;
use std::time::Duration;

use crisp_sandbox::link::{Failure, LinkError};

use super::container_pause;
use crate::cause::{Cause, Operation};
use crate::container::Container;
use crate::container::signal::Signal;
use crate::container::state::State;
use crate::error::RuntimeError;
use crate::exits;
use crate::journal::Action;
use crate::service_state::ServiceState;

const OPERATION: &str = "kill_container";
const SIGNAL: Duration = Duration::from_secs(5);

/// Sends the signal, and records `client` as its source. A paused container is resumed, so that it can handle
/// the signal.
///
/// # Errors
/// The container does not run, or its monitor does not answer.
pub async fn kill(
    service: &Arc<ServiceState>,
    container: &Arc<Container>,
    signal: Signal,
    client: &str,
) -> Result<(), RuntimeError> {
    let id = container.id();
    let refused = |refusal| RuntimeError::Refused { id: id.clone(), refusal };
    let state = &container.status().state;
    if !state.may_run() {
        return Err(refused(state.refuse("be sent a signal")));
    }
    // Recorded before the end that it may cause.
    let text = format!("{signal} (signal {}), asked for by {client}", signal.number());
    service.note_request(Action::Kill, container, text);
    let operation = service.operation(OPERATION, id);
    let sent = send(&operation, service, container, signal).await;
    operation.finish(sent).await?;
    container_pause::resume_for_signal(service, container).await;
    Ok(())
}

async fn send(
    operation: &Operation,
    service: &Arc<ServiceState>,
    container: &Arc<Container>,
    signal: Signal,
) -> Result<(), crate::cause::StageFailure> {
    let send = |_| async {
        let pod = service.pod_of(container).ok_or(Cause::PodGone)?;
        let link = pod.link()?;
        match link.signal(container.id(), signal.number(), false).await {
            Err(LinkError::Refused {
                failure: Failure::NotRunning { .. } | Failure::UnknownContainer { .. },
                ..
            }) => {
                // Either the exit is on its way, or it was missed.
                exits::reconcile(service, &pod, &link, exits::Starts::UnderWay).await;
                let ended = State::Removing { exit: None }.refuse("be sent a signal");
                Err(crate::container::state::Refusal { now: "has exited", ..ended }.into())
            }
            sent => Ok(sent?),
        }
    };
    operation.stage("signal", SIGNAL, send).await
}
