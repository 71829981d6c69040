//! The supervision of one pod: attempts by its policy, its end, its removal. Each decision is written to disk
//! before it is carried out: if the server dies in between, the next one continues and runs nothing twice.
//!
//! ```text
//!  attempt --> ended: recorded --> sandbox stopped --> stays, until it is removed or started again
//!     ^    --> stopped by a client (rest.rs): stays likewise
//!     ^    --> lost, or an error --> back-off --.
//!     |    --> failed, of a Job: counted --> removed --.
//!     '------------------------------------------------'
//! ```

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;

use super::super::manifest::RestartPolicy;
use super::super::pod_end;
use super::super::pod_run::{self, Outcome, PodRun};
use super::super::pod_start::Found;
use super::super::restart::BackOff;
use super::super::run_status::change;
use super::super::stop_request::{LOST, StopRequest};
use super::pod::{State, SupervisedPod};
use super::record;
use crate::server::{Server, layout};

/// Minimal delay between tries.
const RETRY: Duration = Duration::from_secs(1);

/// The step after an attempt.
enum Next {
    Over,
    /// It runs again, for this reason.
    Again(String),
}

impl SupervisedPod {
    /// Runs the pod, again by its policy or after a failure, until it is removed.
    pub async fn supervise(self: Arc<Self>, server: Arc<Server>, root: PathBuf) {
        let run = self.to_run(&server, &root);
        while !self.stop.now().is_any() {
            self.run_to_its_end(&run).await;
            self.rest().await;
        }
        let mut back_off = BackOff::default();
        while let Err(error) = self.take_down(&run, &root).await {
            let wait = back_off.wait(Duration::ZERO).max(RETRY);
            let seconds = wait.as_secs();
            run.report.emit(format_args!("cannot be taken down: {error:#}; tried again in {seconds} s"));
            tokio::time::sleep(wait).await;
        }
        self.state.send_replace(State::Down);
    }

    async fn run_to_its_end(&self, run: &PodRun) {
        let mut back_off = BackOff::default();
        while !self.stop.now().is_any() {
            let begun = Instant::now();
            let mut halts = self.halts.subscribe();
            let reason = match self.attempt(run).await {
                _ if self.stop.now().is_any() => return,
                Ok(Next::Over) => return,
                // It has ended and cannot be stopped, which need not be: it is started.
                Err(_) if self.status.get().ended.is_some() && self.is_restarting() => return,
                Ok(Next::Again(reason)) => reason,
                Err(error) => format!("{error:#}"),
            };
            let wait = back_off.wait(begun.elapsed()).max(RETRY);
            run.report.emit(format_args!("{reason}; tried again in {} s", wait.as_secs()));
            if self.status.get().ended.is_none() {
                self.state.send_replace(State::Waiting(reason));
            }
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                _ = halts.changed() => {}
                _ = self.stop.wait_for(StopRequest::is_any) => {}
            }
        }
    }

    async fn attempt(&self, run: &PodRun) -> anyhow::Result<Next> {
        let status = self.status.get();
        if let Some(code) = status.ended {
            return self.end(run, code).await;
        }
        if status.is_stopped {
            return self.stop_for_now(run).await.map(|()| Next::Over);
        }
        if status.is_failed_attempt {
            pod_end::remove(run).await?;
            change(&self.status, |status| status.is_failed_attempt = false).await?;
        }
        if let Some(code) = self.over(run) {
            return self.end_or_fail(run, code).await;
        }
        self.state.send_replace(State::Running);
        if status.is_resuming {
            self.resume(run).await.context("it cannot be started")?;
        }
        // Own requests: some come from the pod itself, and only end this attempt.
        let (stop, passing) = self.requests();
        let outcome = pod_run::once(&PodRun { stop: stop.clone(), ..run.clone() }).await;
        drop(passing);
        match outcome? {
            _ if self.stop.now().is_any() => Ok(Next::Over),
            _ if self.status.get().is_stopped => self.stop_for_now(run).await.map(|()| Next::Over),
            Outcome::Lost(_) if self.pod.restart_policy != RestartPolicy::Never => {
                Ok(Next::Again("the pod sandbox is gone".to_owned()))
            }
            Outcome::Lost(code) => self.end_or_fail(run, code).await,
            // Stopped because of one of its own limits.
            Outcome::Ended(code) if stop.now().is_any() => self.end(run, code).await,
            Outcome::Ended(code) => self.end_or_fail(run, code).await,
        }
    }

    /// The exit code of a pod that must not run again, because its containers have run to their end or were
    /// lost.
    fn over(&self, run: &PodRun) -> Option<u8> {
        let status = self.status.get();
        match self.pod.restart_policy {
            RestartPolicy::Always => None,
            RestartPolicy::OnFailure => {
                let succeeded = |name: &String| status.succeeded.contains(name);
                self.pod.containers.iter().all(|container| succeeded(&container.name)).then_some(0)
            }
            RestartPolicy::Never => {
                let is_there = matches!(run.find(), Found::Ready(_) | Found::Silent(_));
                (status.has_started && !is_there).then(|| {
                    run.report.emit("it was not running any more, and its restartPolicy is Never");
                    LOST
                })
            }
        }
    }

    /// A Job starts a new pod after a failure, as often as its backoffLimit allows.
    async fn end_or_fail(&self, run: &PodRun, code: u8) -> anyhow::Result<Next> {
        let limit = self.pod.backoff_limit.filter(|_| self.pod.restart_policy == RestartPolicy::Never);
        if code == 0 || self.status.get().failures >= limit.unwrap_or_default() {
            return self.end(run, code).await;
        }
        change(&self.status, |status| {
            status.failures += 1;
            status.is_failed_attempt = true;
            status.has_started = false;
        })
        .await?;
        Ok(Next::Again(format!("the pod has failed with code {code}")))
    }

    /// The pod is stopped and kept for inspection.
    async fn end(&self, run: &PodRun, code: u8) -> anyhow::Result<Next> {
        if self.status.get().ended.is_none() {
            change(&self.status, move |status| status.ended = Some(code)).await?;
            run.report.emit(format_args!("the pod has ended with code {code}"));
        }
        self.state.send_replace(State::Ended(code));
        pod_end::stop(run).await.context("the pod has ended, but cannot be stopped")?;
        Ok(Next::Over)
    }

    async fn take_down(&self, run: &PodRun, root: &std::path::Path) -> anyhow::Result<()> {
        pod_end::take_down(run).await?;
        self.status.close();
        record::remove(&layout::supervised_pods(root), &self.uid)
    }
}
