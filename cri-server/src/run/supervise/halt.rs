//! A pod that clients stop and start again: `crisp stop`, `start` and `restart` of a `crisp run -d IMAGE`.
//!
//! ```text
//!  Running --halt: on disk--> containers stopped, sandbox kept --> Stopped
//!     ^                                                              |
//!     '-- containers started with their files <--start: on disk------'
//! ```
//!
//! When the sandbox is gone meanwhile (the machine was restarted), a new container is made, with the same
//! volumes.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use anyhow::{Context as _, bail, ensure};
use crisp_proto::crisp::v1::ResetContainerRequest;
use crisp_proto::crisp::v1::containers_server::Containers as _;
use crisp_proto::runtime::v1::runtime_service_server::RuntimeService as _;
use crisp_proto::runtime::v1::{ContainerState, StartContainerRequest};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tonic::Request;

use super::super::container_find;
use super::super::image::{ALWAYS, OF_IMAGE};
use super::super::pod_run::{self, PodRun, stop_containers};
use super::super::pod_start::Found;
use super::super::run_status::change;
use super::super::stop_request::{StopRequest, StopRequests};
use super::pod::{Halt, State, SupervisedPod};
use crate::rpc_error::refused;
use crate::server::Server;

/// The exit code of a pod that is stopped. It is not shown.
const HALTED: u8 = 143;

impl SupervisedPod {
    /// Requests that its containers end and are not started again. The request is written to disk first. A pod
    /// that has ended stays as it is.
    ///
    /// # Errors
    /// The disk's error; nothing has changed then.
    pub async fn halt(&self, grace: Option<u32>) -> anyhow::Result<()> {
        let _halting = self.halting.lock().await;
        if self.status.get().ended.is_some() {
            return Ok(());
        }
        change(&self.status, |status| {
            status.is_stopped = true;
            status.is_resuming = false;
        })
        .await?;
        // A problem of an attempt before this is none of the stop.
        self.state.send_if_modified(|state| {
            let is_waiting = matches!(state, State::Waiting(_));
            if is_waiting {
                *state = State::Running;
            }
            is_waiting
        });
        self.halts.send_replace(Some(Halt { grace }));
        Ok(())
    }

    /// Keeps a pod that is to be removed at its end, while a client stops it to start it again.
    pub fn restarts(&self, is_restarting: bool) {
        self.is_restarting.store(is_restarting, Ordering::Relaxed);
    }

    /// Waits until its containers have ended after [`halt`](Self::halt), or a client starts it again.
    ///
    /// # Errors
    /// They cannot be stopped, which is tried again.
    pub async fn halted(&self) -> anyhow::Result<()> {
        let (mut states, mut halts) = (self.state.subscribe(), self.halts.subscribe());
        while self.is_resting() {
            match &*states.borrow_and_update() {
                State::Stopped | State::Ended(_) | State::Down => return Ok(()),
                State::Waiting(reason) => bail!("is not stopped yet, which is tried again: {reason}"),
                State::Running => {}
            }
            tokio::select! {
                _ = states.changed() => {}
                _ = halts.changed() => {}
            }
        }
        Ok(())
    }

    /// Starts a pod that was stopped or has ended. Returns false for one that runs.
    ///
    /// # Errors
    /// It is being removed, or the disk's error; nothing has changed then.
    pub async fn start_again(&self) -> anyhow::Result<bool> {
        // Containers that are being stopped can be started when they have ended.
        let _halting = loop {
            self.halted().await?;
            let halting = self.halting.lock().await;
            if !self.is_resting() {
                return Ok(false);
            }
            ensure!(!self.stop.now().is_any(), "it is being removed");
            if matches!(*self.state.borrow(), State::Stopped | State::Ended(_)) {
                break halting;
            }
        };
        change(&self.status, |status| {
            status.is_stopped = false;
            status.is_created = false;
            status.is_resuming = true;
            status.ended = None;
            status.has_started = false;
            status.succeeded.clear();
            status.failures = 0;
        })
        .await?;
        for container in &self.pod.containers {
            self.conditions.change(&container.name, |condition| {
                condition.is_started = false;
                condition.is_ready = false;
            });
        }
        self.state.send_replace(State::Running);
        self.halts.send_replace(None);
        Ok(true)
    }

    /// As with docker, `--restart always` starts a stopped container when the server starts.
    pub(super) async fn start_with_the_server(&self) {
        let is_always = self.pod.annotations.get(OF_IMAGE).is_some_and(|policy| policy == ALWAYS);
        let status = self.status.get();
        if is_always
            && status.is_stopped
            && !status.is_created
            && let Err(error) = self.start_again().await
        {
            self.report().emit(format_args!("it stays stopped: {error:#}"));
        }
    }

    pub(super) fn is_resting(&self) -> bool {
        let status = self.status.get();
        status.is_stopped || status.ended.is_some()
    }

    /// Waits until a client starts it again, or it is taken down.
    pub(super) async fn rest(&self) {
        let mut halts = self.halts.subscribe();
        loop {
            {
                let _halting = self.halting.lock().await;
                if !self.is_resting() {
                    return;
                }
                if self.status.get().ended.is_none() {
                    self.state.send_replace(State::Stopped);
                }
            }
            tokio::select! {
                _ = halts.changed() => {}
                _ = self.stop.wait_for(StopRequest::is_any) => return,
            }
        }
    }

    /// The stop requests of one attempt: those for the pod, and clients that stop it. They are passed on until
    /// the tasks are dropped.
    pub(super) fn requests(&self) -> (StopRequests, JoinSet<()>) {
        let stop = StopRequests::new();
        let mut passing = JoinSet::new();
        passing.spawn(self.stop.clone().pass_on_to(stop.clone()));
        passing.spawn(pass_on(self.halts.subscribe(), self.pod.grace, stop.clone()));
        (stop, passing)
    }

    /// Stops the containers, or creates those that wait for their first start. The sandbox is kept, and with it
    /// their files.
    ///
    /// # Errors
    /// A container cannot be stopped or created.
    pub(super) async fn stop_for_now(&self, run: &PodRun) -> anyhow::Result<()> {
        if self.status.get().is_created {
            self.create(run).await?;
        } else {
            ensure!(!matches!(run.find(), Found::Silent(_)), "its monitor does not answer");
            let (stop, _passing) = self.requests();
            stop_containers(&PodRun { stop, ..run.clone() }).await.context("it cannot be stopped")?;
        }
        let _halting = self.halting.lock().await;
        // A client may have started it meanwhile.
        if self.status.get().is_stopped {
            self.state.send_replace(State::Stopped);
        }
        Ok(())
    }

    async fn create(&self, run: &PodRun) -> anyhow::Result<()> {
        let outcome = pod_run::once(&PodRun { creates_only: true, ..run.clone() }).await?;
        let code = outcome.code();
        ensure!(code == 0 || self.stop.now().is_any(), "its container cannot be created");
        Ok(())
    }

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
                    start_with_its_files(&run.server, &id, &container.name).await?;
                }
            }
        }
        change(&self.status, |status| status.is_resuming = false).await
    }
}

/// A second request of a client with a grace period of 0 kills.
async fn pass_on(mut halts: watch::Receiver<Option<Halt>>, grace: u32, to: StopRequests) {
    loop {
        if let Some(halt) = *halts.borrow_and_update() {
            match halt.grace {
                Some(0) if to.now().is_any() => to.signal(HALTED),
                own => to.stop_within(HALTED, own.unwrap_or(grace)),
            }
        }
        if halts.changed().await.is_err() {
            return;
        }
    }
}

async fn start_with_its_files(server: &Arc<Server>, pod: &str, name: &str) -> anyhow::Result<()> {
    let Some(container) = container_find::newest(server, pod, name).await? else { return Ok(()) };
    let container_id = container.id.clone();
    match container.state() {
        ContainerState::ContainerRunning => return Ok(()),
        ContainerState::ContainerCreated => {}
        ContainerState::ContainerExited | ContainerState::ContainerUnknown => {
            let reset = ResetContainerRequest { container_id: container_id.clone() };
            server.runtime.reset(Request::new(reset)).await.map_err(refused)?;
        }
    }
    let start = StartContainerRequest { container_id };
    server.runtime.start_container(Request::new(start)).await.map_err(refused)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_stop_has_its_grace_period_and_a_second_one_without_any_kills() {
        let halts = watch::Sender::new(Some(Halt { grace: Some(30) }));
        let to = StopRequests::new();
        let passing = tokio::spawn(pass_on(halts.subscribe(), 10, to.clone()));
        assert_eq!(to.wait_for(StopRequest::is_any).await, StopRequest::Stop { code: HALTED });
        assert_eq!(to.grace(), Some(30));
        halts.send_replace(Some(Halt { grace: Some(0) }));
        assert!(to.wait_for(StopRequest::is_kill).await.is_kill());
        drop(halts);
        passing.await.unwrap();
        let (halts, to) = (watch::Sender::new(Some(Halt::default())), StopRequests::new());
        let _passing = tokio::spawn(pass_on(halts.subscribe(), 10, to.clone()));
        to.wait_for(StopRequest::is_any).await;
        assert_eq!(to.grace(), Some(10), "that of the pod");
    }
}
