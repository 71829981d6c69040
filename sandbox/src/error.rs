//! What can go wrong with a pod, always with the stage and the pod.

use std::io;
use std::sync::Arc;

use crisp_executor::cgroup::{CgroupError, InvalidCgroupPath};
use crisp_executor::ids::PodId;
use crisp_operation::record::RecordError;
use crisp_operation::{Busy, Failure, Interrupted, StatusError};

use crate::config::{InvalidPod, PodKey};
use crate::link::LinkError;
use crate::network::NetworkError;
use crate::pod::state::{PodState, Refusal};
use crate::spawn::SpawnError;
use crate::systemd::SystemdError;

/// A stage of an operation on a pod that failed.
pub type StageFailure = crisp_operation::StageFailure<PodCause>;

/// An operation on a pod that failed.
#[derive(Debug, thiserror::Error)]
pub enum PodError {
    #[error(transparent)]
    Invalid(#[from] InvalidPod),
    #[error("pod {key} exists already as {id} and {state}: remove it, or ask with a higher attempt")]
    Exists { key: PodKey, id: PodId, state: PodState },
    /// An earlier try to make the pod left something that is in the way.
    #[error("pod {key}: an earlier try left {id}, which cannot be cleared away: {error}")]
    LeftOver { key: PodKey, id: PodId, error: Box<PodError> },
    /// A stage failed, and what had been made was undone as far as the failure says.
    #[error(transparent)]
    Failed(Box<Failure<PodCause>>),
    /// Taking the pod down went as far as it could.
    #[error("pod {pod}: {operation}: {}", join(failures))]
    Teardown { operation: &'static str, pod: PodId, failures: Vec<StageFailure> },
    #[error("pod {pod}: {operation}: {busy}")]
    Busy { operation: &'static str, pod: PodId, busy: Busy },
    #[error("{operation} was given up because the server is shutting down")]
    Interrupted { operation: &'static str },
}

/// Equal operations share one outcome.
pub type Shared<T> = Result<T, Arc<PodError>>;

/// Why a stage failed.
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
