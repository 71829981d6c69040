//! The progress of a pod, for another server or the next boot that continues with it.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::anyhow;
use crisp_operation::record::Record;
use crisp_operation::{StatusCell, StatusError};
use serde::{Deserialize, Serialize};

/// The state that containers and sandboxes do not have themselves.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RunStatus {
    /// Nanoseconds since 1970; activeDeadlineSeconds counts from then on.
    pub begun_at: Option<i64>,
    /// A sandbox was started, and containers may have run in it. Only for the policy Never.
    pub has_started: bool,
    /// Containers that have succeeded and are not started again. Only for the policy OnFailure.
    pub succeeded: BTreeSet<String>,
    /// Failures after which a Job's pod was started again.
    pub failures: u32,
    /// The pod of a Job has failed and will run again: its remains are removed first.
    pub is_failed_attempt: bool,
    /// The exit code of a pod that has ended by itself.
    pub ended: Option<u8>,
    /// A client has requested its removal.
    pub is_going_down: bool,
    /// A client has stopped it: no policy starts its containers.
    pub is_stopped: bool,
    /// Seconds between the stop signal and the kill of that stop; without it those of the pod.
    pub stop_grace: Option<u32>,
    /// A client has stopped it to start it again.
    pub is_restarting: bool,
    /// It was created to be started later, and was never started.
    pub is_created: bool,
    /// A client has started it again: its containers that have ended are started, with their files.
    pub is_resuming: bool,
    /// When these containers had last been started before that, by name, in nanoseconds since 1970: one with
    /// another time was started since, and is not started twice.
    pub started_before: BTreeMap<String, i64>,
}

impl Record for RunStatus {
    const KIND: &'static str = "standalone pod status";
}

/// The status of a pod that ends with this process.
pub fn in_memory() -> StatusCell<RunStatus> {
    StatusCell::new(RunStatus::default(), |_| Ok(()))
}

/// Changes the status, on disk first.
///
/// # Errors
/// The disk's error; nothing has changed then.
pub async fn change(
    status: &StatusCell<RunStatus>,
    change: impl Fn(&mut RunStatus) + Send + 'static,
) -> anyhow::Result<()> {
    let status = status.clone();
    let update = move || {
        status.update(|now| {
            let mut next = now.clone();
            change(&mut next);
            Ok::<_, std::convert::Infallible>(next)
        })
    };
    match tokio::task::spawn_blocking(update).await? {
        Ok(_) => Ok(()),
        Err(StatusError::Record(error)) => Err(anyhow!(error).context("cannot record how the pod is")),
        Err(StatusError::Refused(never)) => match never {},
    }
}
