//! StopContainer: ask, wait, kill. Every stop of one container waits for the same exit; the one with
//! the nearest deadline kills.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crisp_sandbox::link::{self, LinkError};

use super::container_start::{change, remove_cgroup};
use crate::clock;
use crate::container::Container;
use crate::container::exit::Exit;
use crate::container::signal::Signal;
use crate::container::state::State;
use crate::error::RuntimeError;
use crate::events::Kind;
use crate::service_state::ServiceState;
use crate::stage::{Cause, Failure, StageFailure, Steps};

const OPERATION: &str = "stop_container";
/// For a start under way to come to an end.
const SETTLE: Duration = Duration::from_secs(90);
const SIGNAL: Duration = Duration::from_secs(5);
/// From the last kill to the monitor's word that it worked.
const GONE: Duration = Duration::from_secs(10);

/// Stops the container: `grace` is the time between the stop signal and the kill. One that does not
/// run is stopped already. The work goes on if the caller goes away.
///
/// # Errors
/// The stage that failed; the container may still run and can be stopped again.
pub async fn stop(
    service: &Arc<ServiceState>,
    container: Arc<Container>,
    grace: Duration,
) -> Result<(), RuntimeError> {
    if container.status().state.is_idle() {
        return Ok(());
    }
    let key = (container.id().clone(), grace);
    let owned = service.clone();
    service.stops.run(key, move || async move { stop_once(&owned, &container, grace).await }).await
}

async fn stop_once(
    service: &Arc<ServiceState>,
    container: &Arc<Container>,
    grace: Duration,
) -> Result<(), RuntimeError> {
    let stopped = async {
        settle(service, container).await?;
        if !grace.is_zero() && ask(service, container).await? && ended(container, grace).await {
            return Ok(());
        }
        if container.status().state.is_idle() {
            return Ok(());
        }
        kill(service, container).await
    };
    stopped.await.map_err(|failure| {
        let subject = format!("container {}", container.id());
        Failure { subject, operation: OPERATION, failure, undo: vec![] }.into()
    })
}

/// A container that is being started can be stopped once that is over.
async fn settle(service: &ServiceState, container: &Container) -> Result<(), StageFailure> {
    let mut status = container.subscribe();
    let work = async {
        // The sender lives in the container, which this function holds.
        let _ = status.wait_for(|s| s.state != State::Starting).await;
        Ok(())
    };
    service.stages(OPERATION).run("settle", SETTLE, work).await
}

/// Waits for the exit; false when `limit` passed.
async fn ended(container: &Container, limit: Duration) -> bool {
    let mut status = container.subscribe();
    tokio::time::timeout(limit, status.wait_for(|s| s.state.is_idle())).await.is_ok()
}

/// Sends the stop signal, once in a container's life. False when there is nobody to send it to.
async fn ask(service: &ServiceState, container: &Container) -> Result<bool, StageFailure> {
    if container.stop_signal_sent.swap(true, Ordering::SeqCst) {
        return Ok(true);
    }
    let signal = container.stop_signal();
    service.stages(OPERATION).run("signal", SIGNAL, send(service, container, signal, false)).await
}

async fn send(
    service: &ServiceState,
    container: &Container,
    signal: Signal,
    all: bool,
) -> Result<bool, Cause> {
    let Some(link) = service.pod_of(container).and_then(|pod| pod.link().ok()) else { return Ok(false) };
    match link.signal(container.id(), signal.number(), all).await {
        Ok(()) => Ok(true),
        // It just ended: the event is on its way.
        Err(LinkError::Refused {
            failure: link::Failure::NotRunning { .. } | link::Failure::UnknownContainer { .. },
            ..
        }) => Ok(true),
        // A monitor of protocol 1 does not send real-time signals.
        Err(LinkError::Refused { failure: link::Failure::Malformed { reason }, .. }) => {
            tracing::warn!(container = %container.id(), %signal, reason, "the signal cannot be sent");
            Ok(false)
        }
        Err(error) if error.is_gone() => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Kills by all means there are: the monitor's pidfd, and the cgroup for what the monitor cannot reach.
async fn kill(service: &Arc<ServiceState>, container: &Arc<Container>) -> Result<(), StageFailure> {
    let stages = service.stages(OPERATION);
    let told = stages.run("kill", SIGNAL, send(service, container, Signal::KILL, true)).await;
    if matches!(told, Ok(true)) && ended(container, Duration::from_millis(200)).await {
        return Ok(());
    }
    if let Some(pod) = service.pod_of(container) {
        let (owned, container) = (service.clone(), container.clone());
        let work = move |steps: &Steps| steps.step("kill cgroup", || remove_cgroup(&owned, &container, &pod));
        stages.blocking(GONE, work).await?;
    }
    if !matches!(told, Ok(true)) {
        // Nobody is left who could tell of the exit, and nothing is left that could run.
        return lost(service, container);
    }
    let work =
        async { if ended(container, GONE).await { Ok(()) } else { Err(Cause::Deadline { after: GONE }) } };
    stages.run("wait for exit", GONE + Duration::from_secs(1), work).await
}

fn lost(service: &ServiceState, container: &Container) -> Result<(), StageFailure> {
    let exit = Exit::lost("its monitor was gone; it was killed by its cgroup".to_owned(), clock::now());
    if let Err(error) = change(container, |state| state.exited(exit)) {
        tracing::error!(container = %container.id(), %error, "cannot note the end of a container");
    }
    service.events.emit(Kind::Stopped, container.id().as_str(), &container.metadata.pod);
    Ok(())
}
