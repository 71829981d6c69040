//! The requests of clients to stop and start a pod: `crisp stop`, `start` and `restart` of a `crisp run -d IMAGE`.
//!
//! ```text
//!  Running --halt: on disk--> containers stopped, sandbox kept (rest.rs) --> Stopped
//!     ^                                                                        |
//!     '-- resume.rs: containers started with their files <--start: on disk-----'
//! ```
//!
//! The pod's own task stops and starts it, so that both halves of a restart are done also when the client or the
//! server ends in between.

use anyhow::{bail, ensure};
use tokio::sync::watch;

use super::super::context::Condition;
use super::super::run_status::change;
use super::pod::{Halt, State, SupervisedPod, Then};

/// The first line of a run that a client has requested.
pub(super) const STARTED: &str = "is started again";

impl SupervisedPod {
    /// Requests that its containers end, and what follows then. The request is written to disk first. A pod that
    /// has ended stays as it is, unless it is to be started; one that waits for that is not started any more.
    ///
    /// # Errors
    /// The disk's error; nothing has changed then.
    pub async fn halt(&self, halt: Halt) -> anyhow::Result<()> {
        let _halting = self.halting.lock().await;
        let is_restarting = halt.then == Then::Start;
        if self.status.get().ended.is_some() && !is_restarting {
            return self.no_longer_restarts(halt).await;
        }
        let grace = self.shorter(halt.grace);
        change(&self.status, move |status| {
            status.is_stopped = true;
            status.is_resuming = false;
            status.stop_grace = grace;
            status.is_restarting = is_restarting;
        })
        .await?;
        // A problem of an attempt before this is none of the stop.
        self.no_longer_waits();
        self.halts.send_replace(Some(halt));
        Ok(())
    }

    /// Ends the request for a start of a pod that has ended.
    async fn no_longer_restarts(&self, halt: Halt) -> anyhow::Result<()> {
        if !self.is_restarting() && !self.status.get().is_restarting {
            return Ok(());
        }
        change(&self.status, |status| {
            status.is_stopped = false;
            status.is_restarting = false;
        })
        .await?;
        self.halts.send_replace(Some(halt));
        Ok(())
    }

    /// The shorter one of this grace period and that of a stop which is under way.
    fn shorter(&self, grace: Option<u32>) -> Option<u32> {
        let status = self.status.get();
        if !status.is_stopped || *self.state.borrow() == State::Stopped {
            return grace;
        }
        let of = |grace: Option<u32>| grace.unwrap_or(self.pod.grace);
        Some(of(grace).min(of(status.stop_grace)))
    }

    /// Waits until its containers have ended after [`halt`](Self::halt), or a client starts it again.
    ///
    /// # Errors
    /// They cannot be stopped or created, which is tried again.
    pub async fn halted(&self) -> anyhow::Result<()> {
        let (mut states, mut halts) = (self.state.subscribe(), self.halts.subscribe());
        while self.is_resting() {
            match &*states.borrow_and_update() {
                State::Stopped | State::Ended(_) | State::Down => return Ok(()),
                State::Waiting(reason) => bail!("{}, which is tried again: {reason}", self.not_yet()),
                State::Running => {}
            }
            tokio::select! {
                _ = states.changed() => {}
                _ = halts.changed() => {}
            }
        }
        Ok(())
    }

    fn not_yet(&self) -> &'static str {
        if self.status.get().is_created { "is not created yet" } else { "is not stopped yet" }
    }

    /// Waits until it has been started after a [`halt`](Self::halt) for that.
    ///
    /// # Errors
    /// It cannot be stopped, which is tried again, or it could not be started, or another client has stopped it.
    pub async fn restarted(&self) -> anyhow::Result<()> {
        let (mut states, mut halts) = (self.state.subscribe(), self.halts.subscribe());
        loop {
            match halts.borrow_and_update().as_ref().map(|halt| &halt.then) {
                None => return Ok(()),
                Some(Then::Start) => {}
                Some(Then::Rest) => bail!("is stopped, as another client has requested"),
                Some(Then::NotStarted(reason)) => bail!("is stopped, and was not started again: {reason}"),
            }
            match &*states.borrow_and_update() {
                State::Waiting(reason) => bail!("{}, which is tried again: {reason}", self.not_yet()),
                State::Down => bail!("it was removed"),
                State::Running | State::Stopped | State::Ended(_) => {}
            }
            tokio::select! {
                _ = states.changed() => {}
                _ = halts.changed() => {}
            }
        }
    }

    /// Starts a pod that was stopped or has ended, and ends the delay of one that waits for its next try.
    /// Returns false for one that runs.
    ///
    /// # Errors
    /// It is being removed, or the disk's error; nothing has changed then.
    pub async fn start_again(&self) -> anyhow::Result<bool> {
        // Containers that are being stopped can be started when they have ended.
        let _halting = loop {
            if !self.is_uncreated() {
                self.halted().await?;
            }
            let halting = self.halting.lock().await;
            if !self.is_resting() {
                return Ok(self.end_delay());
            }
            ensure!(!self.stop.now().is_any(), "it is being removed");
            if self.is_uncreated() || matches!(*self.state.borrow(), State::Stopped | State::Ended(_)) {
                break halting;
            }
        };
        self.start_now().await?;
        Ok(true)
    }

    /// The second half of a restart, when its containers have ended. Does nothing when a client has withdrawn it.
    ///
    /// # Errors
    /// As of [`start_again`](Self::start_again).
    pub(super) async fn start_to_restart(&self) -> anyhow::Result<()> {
        let _halting = self.halting.lock().await;
        if !self.is_restarting() || !self.is_resting() {
            return Ok(());
        }
        ensure!(!self.stop.now().is_any(), "it is being removed");
        self.start_now().await
    }

    /// Starts it. The caller holds the lock.
    async fn start_now(&self) -> anyhow::Result<()> {
        change(&self.status, |status| {
            status.is_stopped = false;
            status.is_restarting = false;
            status.is_created = false;
            status.is_resuming = true;
            status.started_before.clear();
            status.ended = None;
            status.has_started = false;
            status.succeeded.clear();
            status.failures = 0;
        })
        .await?;
        for container in &self.pod.containers {
            self.conditions.change(&container.name, |condition| {
                *condition = Condition { restarts: condition.restarts, ..Condition::default() };
            });
        }
        self.report().routine(STARTED);
        self.state.send_replace(State::Running);
        self.halts.send_replace(None);
        Ok(())
    }

    /// Whether its container could not be created so far: the next try starts it too.
    fn is_uncreated(&self) -> bool {
        self.status.get().is_created && matches!(*self.state.borrow(), State::Waiting(_))
    }

    /// Ends the delay before the next try of a pod or container. Returns false when there is none.
    fn end_delay(&self) -> bool {
        let is_pod = self.no_longer_waits();
        if is_pod {
            // Wakes its task.
            self.halts.send_replace(None);
        }
        self.conditions.end_delays() || is_pod
    }

    /// Returns false when it did not wait for its next try.
    fn no_longer_waits(&self) -> bool {
        self.state.send_if_modified(|state| {
            let is_waiting = matches!(state, State::Waiting(_));
            if is_waiting {
                *state = State::Running;
            }
            is_waiting
        })
    }

    /// Keeps a pod that has ended from being removed, until the attachment is dropped.
    pub fn attach(&self) -> Attachment {
        self.attached.send_modify(|count| *count += 1);
        Attachment(self.attached.clone())
    }

    /// Requests its removal if it has ended or is stopped, and is not being started. Returns false otherwise.
    pub(super) async fn go_down_if_at_rest(&self) -> bool {
        let _halting = self.halting.lock().await;
        let has_ended = matches!(*self.state.borrow(), State::Stopped | State::Ended(_));
        let is_at_rest = has_ended && self.is_resting() && !self.is_restarting();
        if is_at_rest {
            self.go_down(false).await;
        }
        is_at_rest
    }

    pub(super) fn is_resting(&self) -> bool {
        let status = self.status.get();
        status.is_stopped || status.ended.is_some()
    }

    /// Whether it is to be started when its containers have ended.
    pub(super) fn is_restarting(&self) -> bool {
        self.halts.borrow().as_ref().is_some_and(|halt| halt.then == Then::Start)
    }
}

/// A client that follows a pod to its end.
pub struct Attachment(watch::Sender<usize>);

impl Drop for Attachment {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;

    use super::super::record::PodRecord;
    use super::*;

    fn pod(folder: &std::path::Path) -> SupervisedPod {
        let record = PodRecord {
            uid: "uid".into(),
            objects: Vec::new(),
            document: json!({
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": "web"},
                "spec": {"containers": [{"name": "web", "image": "busybox"}]},
            }),
            source: "a test".into(),
            is_created: false,
        };
        record.write(folder).unwrap();
        SupervisedPod::new(&record, folder, &mut BTreeMap::new()).unwrap()
    }

    fn request(then: Then) -> Halt {
        Halt { grace: None, then }
    }

    #[tokio::test]
    async fn a_stop_ends_the_pending_restart_of_a_pod_that_has_ended() {
        let dir = tempfile::tempdir().unwrap();
        let pod = pod(dir.path());
        change(&pod.status, |status| status.ended = Some(0)).await.unwrap();
        pod.state.send_replace(State::Ended(0));
        pod.halt(request(Then::Start)).await.unwrap();
        assert!(pod.is_restarting() && pod.status.get().is_restarting);
        pod.halt(request(Then::Rest)).await.unwrap();
        let status = pod.status.get();
        assert!(!pod.is_restarting() && !status.is_restarting && !status.is_stopped);
        assert!(pod.restarted().await.unwrap_err().to_string().contains("another client"));
        pod.start_to_restart().await.unwrap();
        assert_eq!(pod.status.get().ended, Some(0), "it is not started");
        pod.halt(request(Then::Start)).await.unwrap();
        pod.start_to_restart().await.unwrap();
        assert_eq!((pod.status.get().ended, &*pod.state.borrow()), (None, &State::Running));
        pod.restarted().await.unwrap();
    }

    #[tokio::test]
    async fn only_a_pod_at_rest_is_removed_as_unused() {
        let dir = tempfile::tempdir().unwrap();
        let pod = pod(dir.path());
        assert!(!pod.go_down_if_at_rest().await, "it runs");
        pod.halt(request(Then::Rest)).await.unwrap();
        assert!(!pod.go_down_if_at_rest().await, "its containers end");
        pod.state.send_replace(State::Stopped);
        pod.halt(request(Then::Start)).await.unwrap();
        assert!(!pod.go_down_if_at_rest().await, "it is being started again");
        pod.halt(request(Then::Rest)).await.unwrap();
        assert!(!pod.stop.now().is_any());
        assert!(pod.go_down_if_at_rest().await && pod.stop.now().is_any());
        assert!(pod.status.get().is_going_down);
    }
}
