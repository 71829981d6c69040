//! The errors of pods, always with the stage and the pod.

use std::io;
use std::sync::Arc;

use crisp_executor::cgroup::{CgroupError, InvalidCgroupPath};
use crisp_executor::ids::PodId;
use crisp_operation::record::RecordError;
use crisp_operation::{Busy, Failure, Interrupted, StatusError};

use crate::config::{InvalidPod, PodKey};
use crate::link::LinkError;
use crate::network::NetworkError;
use crate::pod::NotReady;
use crate::pod::state::{PodState, Refusal};
use crate::spawn::SpawnError;
use crate::systemd::SystemdError;

/// A failed stage of an operation on a pod.
pub type StageFailure = crisp_operation::StageFailure<PodCause>;

/// A failed operation on a pod.
#[derive(Debug, thiserror::Error)]
pub enum PodError {
    #[error(transparent)]
    Invalid(#[from] InvalidPod),
    #[error("pod {key} exists already as {id} and {state}: remove it, or ask with a higher attempt")]
    Exists { key: PodKey, id: PodId, state: PodState },
    /// The remains of an earlier try to make the pod could not be removed.
    #[error("pod {key}: an earlier try left {id}, which cannot be cleared away: {error}")]
    LeftOver { key: PodKey, id: PodId, error: Box<PodError> },
    #[error("namespace_options.target_id: {0}")]
    Join(#[from] JoinError),
    /// A stage failed; the failure also has the undo steps that failed.
    #[error(transparent)]
    Failed(Box<Failure<PodCause>>),
    /// Some steps of a teardown failed.
    #[error("pod {pod}: {operation}: {}", join(failures))]
    Teardown { operation: &'static str, pod: PodId, failures: Vec<StageFailure> },
    #[error("pod {pod}: {operation}: {busy}")]
    Busy { operation: &'static str, pod: PodId, busy: Busy },
    #[error("{operation} was given up because the server is shutting down")]
    Interrupted { operation: &'static str },
}

/// The network of another pod cannot be joined.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    #[error("there is no pod {id} whose network could be joined")]
    Unknown { id: PodId },
    #[error("the pod whose network would be joined: {0}")]
    NotReady(#[from] NotReady),
}

/// Equal operations share one outcome.
pub type Shared<T> = Result<T, Arc<PodError>>;

/// The cause of a stage's failure.
#[derive(Debug, thiserror::Error)]
pub enum PodCause {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Record(#[from] RecordError),
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    #[error(transparent)]
    Systemd(#[from] SystemdError),
    #[error(transparent)]
    Spawn(#[from] SpawnError),
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error(transparent)]
    Network(#[from] NetworkError),
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
}

impl From<InvalidCgroupPath> for PodCause {
    fn from(error: InvalidCgroupPath) -> Self {
        Self::Cgroup(error.into())
    }
}

impl From<StatusError<Refusal>> for PodCause {
    fn from(error: StatusError<Refusal>) -> Self {
        match error {
            StatusError::Refused(refusal) => refusal.into(),
            StatusError::Record(error) => error.into(),
        }
    }
}

impl From<Failure<PodCause>> for PodError {
    fn from(failure: Failure<PodCause>) -> Self {
        Self::Failed(Box::new(failure))
    }
}

impl From<Interrupted> for PodError {
    fn from(_: Interrupted) -> Self {
        Self::Interrupted { operation: "run_pod" }
    }
}

fn join(failures: &[StageFailure]) -> String {
    failures.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}
