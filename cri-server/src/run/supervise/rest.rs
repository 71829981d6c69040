//! The part of a pod's own task that stops it at the request of a client (halt.rs), and what follows then.
//!
//! ```text
//!  containers stopped --> a restart: started --> runs again
//!                    '--> --rm: taken down
//!                    '--> rests, until a client starts it or takes it down
//! ```

use std::time::Duration;

use anyhow::{Context as _, ensure};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::super::image::REMOVE;
use super::super::pod_run::{self, PodRun, stop_containers};
use super::super::pod_start::Found;
use super::super::run_status::change;
use super::super::stop_request::{StopRequest, StopRequests};
use super::pod::{Halt, State, SupervisedPod, Then};

/// The exit code of a pod that is stopped. It is not shown.
const HALTED: u8 = 143;

impl SupervisedPod {
    /// Waits until it is started again, or taken down; the rest of a restart is done here.
    pub(super) async fn rest(&self) {
        let (mut halts, mut attached) = (self.halts.subscribe(), self.attached.subscribe());
        loop {
            attached.borrow_and_update();
            halts.borrow_and_update();
            {
                let _halting = self.halting.lock().await;
                if !self.is_resting() {
                    return;
                }
                if self.status.get().ended.is_none() && !self.is_restarting() {
                    self.state.send_replace(State::Stopped);
                }
            }
            if self.is_restarting() {
                self.restart().await;
            }
            self.go_down_if_over().await;
            tokio::select! {
                _ = halts.changed() => {}
                _ = attached.changed() => {}
                _ = self.stop.wait_for(StopRequest::is_any) => return,
            }
        }
    }

    async fn restart(&self) {
        let Err(error) = self.start_to_restart().await else { return };
        let reason = format!("{error:#}");
        self.report().emit(format_args!("is not started again: {reason}"));
        let _halting = self.halting.lock().await;
        // The next server would try once more, which is no harm.
        let _ = change(&self.status, |status| status.is_restarting = false).await;
        self.halts.send_if_modified(|halt| {
            let restart = halt.as_mut().filter(|halt| halt.then == Then::Start);
            restart.map(|halt| halt.then = Then::NotStarted(reason)).is_some()
        });
    }

    /// As `--rm` says. A restart is no end.
    async fn go_down_if_over(&self) {
        let _halting = self.halting.lock().await;
        let is_over = self.is_resting() && !self.status.get().is_created;
        let is_held = self.is_restarting() || *self.attached.borrow() > 0;
        if is_over && !is_held && self.pod.annotations.contains_key(REMOVE) {
            self.go_down(false).await;
        }
    }

    /// The stop requests of one attempt: those for the pod, and clients that stop it. They are passed on until
    /// the tasks are dropped.
    pub(super) fn requests(&self) -> (StopRequests, JoinSet<()>) {
        let stop = StopRequests::new();
        if let Some(code) = self.stop.now().code() {
            stop.stop_with(code);
        }
        let mut passing = JoinSet::new();
        passing.spawn(self.stop.clone().pass_on_to(stop.clone()));
        let mut halts = self.halts.subscribe();
        begin(&mut halts, self.pod.grace, &stop);
        passing.spawn(pass_on(halts, self.pod.grace, stop.clone()));
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
        Ok(())
    }

    async fn create(&self, run: &PodRun) -> anyhow::Result<()> {
        let outcome = pod_run::once(&PodRun { creates_only: true, ..run.clone() }).await?;
        let code = outcome.code();
        ensure!(code == 0 || self.stop.now().is_any(), "its container cannot be created");
        Ok(())
    }
}

/// Passes on the present request, before anything runs that it would stop.
fn begin(halts: &mut watch::Receiver<Option<Halt>>, grace: u32, to: &StopRequests) {
    if let Some(halt) = &*halts.borrow_and_update() {
        to.stop_within(HALTED, halt.grace.unwrap_or(grace));
    }
}

/// Passes on later requests of clients. They can only shorten the grace period, which begins anew with each.
async fn pass_on(mut halts: watch::Receiver<Option<Halt>>, grace: u32, to: StopRequests) {
    let mut kill_at: Option<Instant> = None;
    loop {
        tokio::select! {
            biased;
            () = at(kill_at) => {
                to.signal(HALTED);
                kill_at = None;
            }
            changed = halts.changed() => {
                if changed.is_err() {
                    return;
                }
                if !to.now().is_any() {
                    begin(&mut halts, grace, &to);
                } else if let Some(halt) = &*halts.borrow_and_update() {
                    let end = Instant::now() + Duration::from_secs(halt.grace.unwrap_or(grace).into());
                    kill_at = Some(kill_at.map_or(end, |at| at.min(end)));
                }
            }
        }
    }
}

async fn at(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn halt(grace: Option<u32>) -> Option<Halt> {
        Some(Halt { grace, then: Then::Rest })
    }

    #[tokio::test(start_paused = true)]
    async fn a_later_stop_shortens_the_grace_period_and_one_without_any_kills_at_once() {
        let halts = watch::Sender::new(halt(Some(30)));
        let to = StopRequests::new();
        let mut receiver = halts.subscribe();
        begin(&mut receiver, 10, &to);
        let passing = tokio::spawn(pass_on(receiver, 10, to.clone()));
        assert_eq!(to.now(), StopRequest::Stop { code: HALTED });
        assert_eq!(to.grace(), Some(30));
        let begun = Instant::now();
        for grace in [Some(3), Some(20), None] {
            halts.send_replace(halt(grace));
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        assert!(to.wait_for(StopRequest::is_kill).await.is_kill());
        assert_eq!(begun.elapsed().as_secs(), 3, "the shortest period counts");
        drop(halts);
        passing.await.unwrap();

        let (halts, to) = (watch::Sender::new(None), StopRequests::new());
        let _passing = tokio::spawn(pass_on(halts.subscribe(), 10, to.clone()));
        halts.send_replace(halt(None));
        to.wait_for(StopRequest::is_any).await;
        assert_eq!(to.grace(), Some(10), "that of the pod");
        let begun = Instant::now();
        halts.send_replace(halt(Some(0)));
        to.wait_for(StopRequest::is_kill).await;
        assert_eq!(begun.elapsed().as_secs(), 0);
    }
}
