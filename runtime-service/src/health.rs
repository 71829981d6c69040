//! Checks whether the node can run containers. The checks do not run on the threads that serve requests, so
//! that a dead disk cannot block Status.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use crisp_executor::rootfs;
use crisp_sandbox::Pods;
use rustix::fs::Access;
use tokio::sync::watch;
use tokio::time::timeout;

/// Time limit for a request to wait for a check; then it returns the result of the check before.
const PATIENCE: Duration = Duration::from_secs(1);
/// A check that takes longer means that the node does not work. Slowness alone is not a failure.
const STUCK: Duration = Duration::from_secs(30);

/// One requirement and its state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Condition {
    pub ready: bool,
    /// One word; empty when ready.
    pub reason: String,
    pub message: String,
}

impl Condition {
    fn failed(reason: &str, message: String) -> Self {
        Self { ready: false, reason: reason.to_owned(), message }
    }
}

/// The conditions of one service.
#[derive(Debug, Default)]
pub(crate) struct Health {
    runtime: Probe,
    network: Probe,
    user_namespaces: Probe,
}

impl Health {
    /// Whether the server can keep containers: their folder is writable.
    pub(crate) async fn runtime(&self, folder: PathBuf) -> Condition {
        let subject = format!("root: {}", folder.display());
        let look_up = move || match rustix::fs::access(&folder, Access::WRITE_OK | Access::EXEC_OK) {
            Ok(()) => Condition { ready: true, reason: String::new(), message: String::new() },
            Err(errno) => {
                Condition::failed("RootNotWritable", format!("root: {}: {errno}", folder.display()))
            }
        };
        self.runtime.check(&subject, STUCK, look_up).await
    }

    /// Whether pods can have their own user namespaces: image layers on the file system of `folders` can be
    /// mounted with mapped ids.
    pub(crate) async fn user_namespaces(&self, folders: [PathBuf; 2]) -> Condition {
        if let Some(known) = self.user_namespaces.latest().filter(|known| known.ready) {
            return known;
        }
        let look_up = move || match rootfs::check_idmap(&folders) {
            Ok(()) => Condition { ready: true, reason: String::new(), message: String::new() },
            Err(error) => Condition::failed("NoUserNamespaces", error.to_string()),
        };
        self.user_namespaces.check("user namespaces", STUCK, look_up).await
    }

    /// Whether pods get a network.
    pub(crate) async fn network(&self, pods: &Pods) -> Condition {
        let pods = pods.clone();
        let look_up = move || {
            let status = pods.network_status();
            Condition { ready: status.ready, reason: status.reason, message: status.message }
        };
        self.network.check("network", STUCK, look_up).await
    }
}

/// A check that may hang: one at a time, with the latest result.
#[derive(Debug)]
struct Probe(watch::Sender<Lookup>);

#[derive(Debug, Clone, Default)]
struct Lookup {
    under_way_since: Option<Instant>,
    latest: Option<Condition>,
}

impl Default for Probe {
    fn default() -> Self {
        Self(watch::Sender::new(Lookup::default()))
    }
}

impl Probe {
    fn latest(&self) -> Option<Condition> {
        self.0.borrow().latest.clone()
    }

    /// The result of the check that ends now, or the latest one while a check is slow.
    async fn check(
        &self,
        subject: &str,
        stuck: Duration,
        look_up: impl FnOnce() -> Condition + Send + 'static,
    ) -> Condition {
        let mut lookup = self.0.subscribe();
        let begin = self.0.send_if_modified(|lookup| {
            let idle = lookup.under_way_since.is_none();
            lookup.under_way_since.get_or_insert_with(Instant::now);
            idle
        });
        if begin {
            let result = self.0.clone();
            tokio::task::spawn_blocking(move || {
                let latest = Some(look_up());
                result.send_replace(Lookup { under_way_since: None, latest });
            });
        }
        let ended = |lookup: &Lookup| lookup.under_way_since.is_none();
        if timeout(PATIENCE.min(stuck), lookup.wait_for(ended)).await.is_err() {
            let now = lookup.borrow().clone();
            if now.latest.is_none() {
                timeout(stuck.saturating_sub(waiting(&now)), lookup.wait_for(ended)).await.ok();
            }
        }
        let lookup = lookup.borrow();
        match (&lookup.latest, waiting(&lookup)) {
            (Some(latest), waiting) if waiting < stuck => latest.clone(),
            (_, waiting) => Condition::failed(
                "NoAnswer",
                format!("{subject}: no answer for {} s; its disk is dead or overloaded", waiting.as_secs()),
            ),
        }
    }
}

fn waiting(lookup: &Lookup) -> Duration {
    lookup.under_way_since.map(|since| since.elapsed()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    const STUCK: Duration = Duration::from_millis(200);

    fn ready() -> Condition {
        Condition { ready: true, reason: String::new(), message: String::new() }
    }

    #[tokio::test]
    async fn a_slow_lookup_keeps_the_latest_result_and_a_stuck_one_does_not() {
        let probe = Probe::default();
        assert_eq!(probe.check("root", STUCK, ready).await, ready());
        let (release, hang) = channel::<()>();
        let hanging = move || {
            let _ = hang.recv();
            ready()
        };
        let begun = Instant::now();
        let stuck = probe.check("root", Duration::from_secs(60), hanging).await;
        assert_eq!(stuck, ready(), "slow is not gone");
        assert!(begun.elapsed() < Duration::from_secs(30), "a request does not wait for the disk");

        tokio::time::sleep(STUCK).await;
        let stuck = probe.check("root", STUCK, || unreachable!("one lookup at a time")).await;
        assert_eq!((stuck.ready, stuck.reason.as_str()), (false, "NoAnswer"));
        assert!(stuck.message.starts_with("root: no answer for "), "{}", stuck.message);

        drop(release);
        let latest = probe.check("root", Duration::from_secs(60), ready).await;
        assert_eq!(latest, ready(), "it works again");
    }

    #[tokio::test]
    async fn a_first_lookup_that_hangs_is_not_ready() {
        let (release, hang) = channel::<()>();
        let hanging = move || {
            let _ = hang.recv();
            ready()
        };
        let condition = Probe::default().check("root", STUCK, hanging).await;
        assert_eq!(condition.reason, "NoAnswer");
        drop(release);
    }
}
