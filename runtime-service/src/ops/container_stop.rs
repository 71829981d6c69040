//! StopContainer: stop signal, then SIGKILL at the deadline.
//!
//! ```text
//!   start under way? ── may end until the deadline (10 s at most), then it is cancelled
//!   stop signal ─> wait for the exit ─> deadline ─> SIGKILL by the monitor ─> SIGKILL by the cgroup
//! ```
//!
//! All stops of one container are one operation with one deadline, which each of them can only bring
//! nearer. It takes the container's lock, but not for ever: what holds it must not keep a container alive.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crisp_operation::{Flight, KeyedGuard, clock};
use crisp_sandbox::link::{Failure, LinkError};

use super::container_cgroup;
use crate::cause::{Cause, Operation, StageFailure, Steps};
use crate::container::Container;
use crate::container::exit::Exit;
use crate::container::kill_at::KillAt;
use crate::container::signal::Signal;
use crate::container::state::State;
use crate::error::RuntimeError;
use crate::exits;
use crate::service_state::ServiceState;

const OPERATION: &str = "stop_container";
/// For a start under way to end by itself.
const START: Duration = Duration::from_secs(10);
/// For a cancelled start to be undone.
const START_UNDONE: Duration = Duration::from_secs(20);
/// For another operation on the container to end.
const LOCK: Duration = Duration::from_secs(2);
const SIGNAL: Duration = Duration::from_secs(5);
/// From SIGKILL by the monitor to the exit, before the cgroup is killed.
const KILLED: Duration = Duration::from_millis(200);
/// From SIGKILL by the cgroup to the exit.
const EXIT: Duration = Duration::from_secs(10);

/// Stops the container: `grace` is the time between the stop signal and SIGKILL. One that does not run, and of
/// which no start is under way, is stopped already. The work goes on if the caller goes away.
///
/// # Errors
/// The stage that failed; the container may still run and can be stopped again.
pub async fn stop(
    service: &Arc<ServiceState>,
    container: Arc<Container>,
    grace: Duration,
) -> Result<(), RuntimeError> {
    if container.status().state.is_idle() && start_under_way(service, &container).is_none() {
        return Ok(());
    }
    let kill_at = KillAt::after(grace);
    let flight = service.stops.join_or_start(container.id().clone(), |_| {
        let stop = Stop {
            operation: service.operation(OPERATION, container.id()),
            service: service.clone(),
            container,
            kill_at: kill_at.clone(),
        };
        (kill_at.clone(), stop.run())
    });
    flight.shared().no_later_than(&kill_at);
    Ok(flight.wait().await?)
}

/// The start of a container that does not run yet. It may still wait for its turn.
fn start_under_way(service: &ServiceState, container: &Container) -> Option<Flight<(), RuntimeError>> {
    let may_begin = matches!(container.status().state, State::Created | State::Starting);
    may_begin.then(|| service.starts.get(container.id())).flatten()
}

struct Stop {
    operation: Operation,
    service: Arc<ServiceState>,
    container: Arc<Container>,
    kill_at: KillAt,
}

/// What became of a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Signalled {
    Sent,
    /// The monitor knows of no such process.
    NotRunning,
    /// The monitor is gone, or does not answer.
    NoAnswer,
}

impl Stop {
    async fn run(mut self) -> Result<(), RuntimeError> {
        let result = self.stages().await;
        Ok(self.operation.finish(result).await?)
    }

    async fn stages(&mut self) -> Result<(), StageFailure> {
        self.end_start().await?;
        let mut lock = self.lock().await;
        if self.is_idle() {
            return Ok(());
        }
        if !self.kill_at.is_over() && self.signal_once().await? {
            drop(lock);
            if self.exited_in_grace().await {
                return Ok(());
            }
            lock = self.lock().await;
        }
        self.operation.hold(lock);
        if self.is_idle() { Ok(()) } else { self.kill().await }
    }

    async fn lock(&self) -> Option<KeyedGuard> {
        let lock = self.service.locks.lock_within(self.container.id().clone(), OPERATION, LOCK).await;
        lock.inspect_err(|busy| {
            tracing::warn!(container = %self.container.id(), %busy, "stopping the container all the same");
        })
        .ok()
    }

    fn is_idle(&self) -> bool {
        self.container.status().state.is_idle()
    }

    /// A start under way may end by itself for a while; then it is cancelled, which undoes it. One that is
    /// requested meanwhile is ended too.
    async fn end_start(&self) -> Result<(), StageFailure> {
        while let Some(start) = start_under_way(&self.service, &self.container) {
            let wait = |_| async {
                let ended = start.clone().wait();
                tokio::select! {
                    _ = ended => return Ok(true),
                    () = self.kill_at.reached() => {}
                    () = tokio::time::sleep(START) => {}
                }
                start.cancel();
                Ok(tokio::time::timeout(START_UNDONE, start.wait()).await.is_ok())
            };
            let deadline = START + START_UNDONE + Duration::from_secs(1);
            if !self.operation.stage("start", deadline, wait).await? {
                tracing::warn!(container = %self.container.id(), "its start does not end; it is killed");
                return Ok(());
            }
        }
        Ok(())
    }

    /// Sends the stop signal, once in a container's life. False when no process can receive it.
    async fn signal_once(&self) -> Result<bool, StageFailure> {
        if self.container.stop_signal_sent.swap(true, Ordering::SeqCst) {
            return Ok(true);
        }
        let signal = self.container.stop_signal();
        let sent = self.operation.stage("signal", SIGNAL, |_| self.send(signal, false)).await;
        if !matches!(sent, Ok(Signalled::Sent)) {
            self.container.stop_signal_sent.store(false, Ordering::SeqCst);
        }
        match sent {
            Ok(signalled) => Ok(signalled == Signalled::Sent),
            // A monitor that does not answer cannot be asked twice: the deadline decides.
            Err(failure) => {
                tracing::warn!(container = %self.container.id(), %failure, "cannot send the stop signal");
                Ok(true)
            }
        }
    }

    async fn send(&self, signal: Signal, all: bool) -> Result<Signalled, Cause> {
        let pod = self.service.pod_of(&self.container);
        let Some((pod, link)) = pod.and_then(|pod| pod.link().ok().map(|link| (pod, link))) else {
            return Ok(Signalled::NoAnswer);
        };
        match link.signal(self.container.id(), signal.number(), all).await {
            Ok(()) => Ok(Signalled::Sent),
            Err(LinkError::Refused {
                failure: Failure::NotRunning { .. } | Failure::UnknownContainer { .. },
                ..
            }) => {
                // Either the exit is on its way, or it was missed.
                exits::reconcile(&self.service, &pod, &link, exits::Starts::UnderWay).await;
                Ok(Signalled::NotRunning)
            }
            // A monitor of protocol 1 does not send real-time signals.
            Err(LinkError::Refused { failure: Failure::Malformed { reason }, .. }) => {
                tracing::warn!(container = %self.container.id(), %signal, reason, "the signal cannot be sent");
                Ok(Signalled::NoAnswer)
            }
            Err(error) if error.is_gone() => Ok(Signalled::NoAnswer),
            Err(error) => Err(error.into()),
        }
    }

    async fn exited_in_grace(&self) -> bool {
        let mut status = self.container.subscribe();
        tokio::select! {
            _ = status.wait_for(|status| status.state.is_idle()) => true,
            () = self.kill_at.reached() => false,
        }
    }

    async fn exited_within(&self, limit: Duration) -> bool {
        let mut status = self.container.subscribe();
        tokio::time::timeout(limit, status.wait_for(|status| status.state.is_idle())).await.is_ok()
    }

    /// Kills by the monitor's pidfd, and by the cgroup what the monitor does not reach.
    async fn kill(&self) -> Result<(), StageFailure> {
        let sent = self.operation.stage("kill", SIGNAL, |_| self.send(Signal::KILL, true)).await;
        let sent = sent.unwrap_or_else(|failure| {
            tracing::warn!(container = %self.container.id(), %failure, "the monitor cannot kill it");
            Signalled::NoAnswer
        });
        if sent != Signalled::NoAnswer && self.exited_within(KILLED).await {
            return Ok(());
        }
        self.kill_cgroup().await?;
        if sent == Signalled::NoAnswer && !self.is_idle() {
            self.note_killed();
            return Ok(());
        }
        let exit = |_| async {
            // The second signal finds out that the process is gone.
            if !self.exited_within(EXIT).await
                && self.send(Signal::KILL, true).await.is_ok()
                && !self.is_idle()
            {
                self.note_killed();
            }
            Ok(())
        };
        self.operation.stage("exit", EXIT + SIGNAL + Duration::from_secs(1), exit).await
    }

    async fn kill_cgroup(&self) -> Result<(), StageFailure> {
        let (service, container) = (self.service.clone(), self.container.clone());
        let work =
            move |steps: &Steps| steps.step("cgroup", || container_cgroup::remove(&service, &container));
        self.operation.blocking(EXIT, work).await
    }

    /// The cgroup is gone, so that nothing of the container runs, and the monitor does not say how it ended.
    fn note_killed(&self) {
        let exit =
            Exit::lost("killed by its cgroup: its monitor did not report the exit".to_owned(), clock::now());
        if let Err(refusal) = exits::note(&self.service, &self.container, exit) {
            tracing::error!(container = %self.container.id(), %refusal, "cannot note its end");
        }
    }
}
