//! How far a pod has come: what another server, or the next boot, has to know to go on with it.

use std::collections::BTreeSet;

use anyhow::anyhow;
use crisp_operation::record::Record;
use crisp_operation::{StatusCell, StatusError};
use serde::{Deserialize, Serialize};

/// Everything that containers and sandboxes do not say by themselves.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RunStatus {
    /// Nanoseconds since 1970: from then on activeDeadlineSeconds counts.
    pub begun_at: Option<i64>,
    /// A sandbox was started, and containers may have run in it. Only for the policy Never.
    pub has_started: bool,
    /// Containers that have succeeded and are not started again. Only for the policy OnFailure.
    pub succeeded: BTreeSet<String>,
    /// Failures that were made good, for a Job.
    pub failures: u32,
    /// The pod of a Job has failed and is run again: what is left of it is removed first.
    pub is_failed_attempt: bool,
    /// The exit code of a pod that has ended by itself.
    pub ended: Option<u8>,
    /// A client asked to take it down.
    pub is_going_down: bool,
}

impl Record for RunStatus {
    const KIND: &'static str = "standalone pod status";
}

/// Of a pod that ends with this process.
pub fn in_memory() -> StatusCell<RunStatus> {
    StatusCell::new(RunStatus::default(), |_| Ok(()))
}

/// Changes it, on disk first.
///
/// # Errors
/// The disk's; nothing has changed then.
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
