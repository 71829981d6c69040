//! StopContainer: sends the stop signal, then SIGKILL at the deadline.
//!
//! ```text
//!   start under way? ── may end until the deadline (10 s at most), then it is cancelled
//!   stop signal ─> wait for the exit ─> deadline ─> SIGKILL by the monitor ─> SIGKILL by the cgroup
//!    by the monitor; by the server where that does not answer for a second
//! ```
//!
//! All stops of one container are one operation with one deadline, which each stop can only shorten. It takes
//! the container's lock, but waits only a limited time: a lock holder must not keep a container alive.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crisp_operation::{Flight, Interrupted, KeyedGuard, clock};
use crisp_sandbox::link::{Failure, LinkError};

use super::{container_cgroup, container_hooks, container_pause, container_signal};
use crate::cause::{Cause, Operation, StageFailure, Steps};
use crate::container::Container;
use crate::container::exit::Exit;
use crate::container::kill_at::KillAt;
use crate::container::signal::Signal;
use crate::container::state::State;
use crate::error::RuntimeError;
use crate::exits;
use crate::journal::Action;
use crate::service_state::ServiceState;

const OPERATION: &str = "stop_container";
/// Time limit for a start under way to end by itself.
const START: Duration = Duration::from_secs(10);
/// Time limit for undoing a cancelled start.
const START_UNDONE: Duration = Duration::from_secs(20);
/// Time limit for another operation on the container.
const LOCK: Duration = Duration::from_secs(2);
const SIGNAL: Duration = Duration::from_secs(5);
/// Time limit for a monitor that is not connected, before the server sends the stop signal itself.
const ANSWER: Duration = Duration::from_secs(1);
/// Interval at which the connection is checked.
const CONNECTED: Duration = Duration::from_millis(50);
/// Time from SIGKILL by the monitor to the exit, before the cgroup is killed.
const KILLED: Duration = Duration::from_millis(200);
/// Time from SIGKILL by the cgroup to the exit.
const EXIT: Duration = Duration::from_secs(10);

/// Stops the container: `grace` is the time between the stop signal and SIGKILL. Succeeds at once when it
/// does not run and no start is under way. The work continues if the caller leaves.
///
/// # Errors
/// A stage failed; the container may still run and can be stopped again.
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
        service.note_request(Action::Stop, &container, format!("SIGKILL after {} s", grace.as_secs()));
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

/// The start of a container that does not run yet. It may still wait for the lock.
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

/// The result of sending a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Signalled {
    Sent,
    /// The monitor has no such process.
    NotRunning,
    /// The monitor is gone, does not answer, or cannot send this signal.
    NoAnswer,
}

/// The sender of the stop signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sender {
    Monitor,
    /// The monitor had time to answer.
    MonitorOrServer,
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
        let mut sender = Sender::Monitor;
        while !self.kill_at.is_over() {
            match self.signal_once(sender).await {
                Signalled::NotRunning => break,
                Signalled::NoAnswer if !self.has_monitor() => break,
                Signalled::NoAnswer => {
                    drop(lock);
                    self.monitor_answers().await;
                    sender = Sender::MonitorOrServer;
                }
                Signalled::Sent => {
                    drop(lock);
                    let _wait = self.operation.waits_for("the container, to end after the stop signal");
                    self.exited_in_grace().await;
                }
            }
            if self.is_idle() {
                return Ok(());
            }
            lock = self.lock().await;
        }
        self.operation.hold(lock);
        if self.is_idle() { Ok(()) } else { self.kill().await }
    }

    /// Whether the pod's monitor may still exist; it may be slow.
    fn has_monitor(&self) -> bool {
        self.service.pod_of(&self.container).is_some_and(|pod| pod.status().state.may_run())
    }

    /// Waits a limited time for a connection to the monitor, or until the exit or the deadline.
    async fn monitor_answers(&self) {
        let connected = async {
            while self.service.pod_of(&self.container).is_some_and(|pod| pod.link().is_err()) {
                tokio::time::sleep(CONNECTED).await;
            }
            // The monitor has just refused or closed the connection.
            tokio::time::sleep(CONNECTED).await;
        };
        tokio::select! {
            _ = tokio::time::timeout(ANSWER, connected) => {}
            _ = self.exited_in_grace() => {}
        }
    }

    async fn lock(&self) -> Option<KeyedGuard> {
        let lock = self.service.locks.lock_within(self.container.id().clone(), OPERATION, LOCK);
        let lock = self.operation.turn(lock).await;
        lock.inspect_err(|busy| {
            tracing::warn!(container = %self.container.id(), %busy, "stopping the container all the same");
        })
        .ok()
    }

    fn is_idle(&self) -> bool {
        self.container.status().state.is_idle()
    }

    /// Gives a start under way time to end by itself; then cancels it, which undoes it. A start that is
    /// requested meanwhile is cancelled too.
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

    /// Sends the stop signal, once per start of the container.
    async fn signal_once(&self, sender: Sender) -> Signalled {
        if self.container.stop_signal_sent.swap(true, Ordering::SeqCst) {
            return Signalled::Sent;
        }
        let signal = self.container.stop_signal();
        let send = |_| async move {
            match self.send(signal, false).await {
                Ok(Signalled::NoAnswer) if sender == Sender::MonitorOrServer => {
                    self.send_itself(signal).await
                }
                sent => sent,
            }
        };
        let sent = self.operation.stage("signal", SIGNAL, send).await;
        if !matches!(sent, Ok(Signalled::Sent)) {
            self.container.stop_signal_sent.store(false, Ordering::SeqCst);
        }
        // A monitor that does not answer must not be asked twice: the deadline decides.
        sent.unwrap_or_else(|failure| {
            tracing::warn!(container = %self.container.id(), %failure, "cannot send the stop signal");
            Signalled::Sent
        })
    }

    /// Sends the signal without the monitor.
    async fn send_itself(&self, signal: Signal) -> Result<Signalled, Cause> {
        let (service, container) = (self.service.clone(), self.container.clone());
        let send = move || container_signal::send(&service, &container, signal);
        let Ok(sent) = tokio::task::spawn_blocking(send).await else {
            return Err(Interrupted::ShuttingDown.into());
        };
        if !sent? {
            return Ok(Signalled::NoAnswer);
        }
        tracing::warn!(container = %self.container.id(), %signal, "its monitor does not send the stop signal: sent by the server");
        container_pause::resume_for_signal(&self.service, &self.container).await;
        Ok(Signalled::Sent)
    }

    async fn send(&self, signal: Signal, all: bool) -> Result<Signalled, Cause> {
        let pod = self.service.pod_of(&self.container);
        let Some((pod, link)) = pod.and_then(|pod| pod.link().ok().map(|link| (pod, link))) else {
            return Ok(Signalled::NoAnswer);
        };
        match link.signal(self.container.id(), signal.number(), all).await {
            Ok(()) => {
                container_pause::resume_for_signal(&self.service, &self.container).await;
                Ok(Signalled::Sent)
            }
            Err(LinkError::Refused {
                failure: Failure::NotRunning { .. } | Failure::UnknownContainer { .. },
                ..
            }) => {
                // The exit event is under way, or it was missed.
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

    async fn exited_in_grace(&self) {
        let mut status = self.container.subscribe();
        tokio::select! {
            _ = status.wait_for(|status| status.state.is_idle()) => {}
            () = self.kill_at.reached() => {}
        }
    }

    async fn exited_within(&self, limit: Duration) -> bool {
        let mut status = self.container.subscribe();
        tokio::time::timeout(limit, status.wait_for(|status| status.state.is_idle())).await.is_ok()
    }

    /// Kills by the monitor's pidfd, and then by the cgroup those that the monitor does not reach.
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
            if !self.exited_within(EXIT).await {
                // The monitor may report the exit only now. The processes are gone with their cgroup in any case.
                let _ = self.send(Signal::KILL, true).await;
                if !self.is_idle() {
                    self.note_killed();
                }
            }
            Ok(())
        };
        self.operation.stage("exit", EXIT + SIGNAL + Duration::from_secs(1), exit).await
    }

    async fn kill_cgroup(&self) -> Result<(), StageFailure> {
        let (service, container) = (self.service.clone(), self.container.clone());
        // The container may be started again after its exit: that waits until this thread has ended.
        let cleaning = |_| async { Ok(container.cleaning.clone().lock_owned().await) };
        let cleaning = self.operation.stage("clean-up", EXIT, cleaning).await?;
        let work = move |steps: &Steps| {
            let _cleaning = cleaning;
            exits::close_files(&container);
            steps.step("cgroup", || container_cgroup::remove(&service, &container))
        };
        self.operation.blocking(EXIT, work).await
    }

    /// Records the end when the cgroup is gone, so that no process is left, and the monitor does not report
    /// the exit.
    fn note_killed(&self) {
        // The monitor may have recorded the exit without reporting it.
        let recorded = exits::recorded(&self.service, &self.container).ok().flatten();
        let exit = recorded.unwrap_or_else(|| {
            Exit::lost("killed by its cgroup: its monitor did not report the exit".to_owned(), clock::now())
        });
        if let Err(refusal) = exits::note(&self.service, &self.container, exit, exits::Starts::UnderWay) {
            tracing::error!(container = %self.container.id(), %refusal, "cannot note its end");
        }
        container_hooks::run_poststop_in_background(&self.container, None);
    }
}
