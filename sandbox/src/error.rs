//! What can go wrong with a pod, always with the stage and the pod.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use crisp_executor::cgroup::CgroupError;
use crisp_executor::id::PodId;

use crate::config::{InvalidPod, PodKey};
use crate::link::LinkError;
use crate::network::NetworkError;
use crate::pod::PodState;
use crate::record::RecordError;
use crate::spawn::SpawnError;

/// A pod operation that did not end as asked.
#[derive(Debug, thiserror::Error)]
pub enum PodError {
    #[error(transparent)]
    Invalid(#[from] InvalidPod),
    #[error("pod {key} exists already as {id} and is {state:?}: remove it, or ask with a higher attempt")]
    Exists { key: PodKey, id: PodId, state: PodState },
    #[error("pod {id} is not known")]
    NotFound { id: PodId },
    /// A stage failed, and what had been made was undone.
    #[error("pod {pod}: {operation}: {failure}{}", undo_text(undo))]
    Failed { operation: &'static str, pod: PodId, failure: StageFailure, undo: Vec<StageFailure> },
    /// Taking the pod down went as far as it could.
    #[error("pod {pod}: {operation}: {}", join(failures))]
    Teardown { operation: &'static str, pod: PodId, failures: Vec<StageFailure> },
    #[error("{operation} was given up: the server is going down")]
    Aborted { operation: &'static str },
}

/// Equal operations share one outcome.
pub type Shared<T> = Result<T, Arc<PodError>>;

/// The stage that failed, and why.
#[derive(Debug, thiserror::Error)]
#[error("stage {stage}: {cause}")]
pub struct StageFailure {
    pub stage: &'static str,
    pub cause: StageCause,
}

/// Why a stage failed.
#[derive(Debug, thiserror::Error)]
pub enum StageCause {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Record(#[from] RecordError),
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    #[error(transparent)]
    Spawn(#[from] SpawnError),
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error(transparent)]
    Network(#[from] NetworkError),
    #[error("not done after {} ms", after.as_millis())]
    Deadline { after: Duration },
    #[error("its task ended early: {0}")]
    Task(String),
}

fn join(failures: &[StageFailure]) -> String {
    failures.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

fn undo_text(undo: &[StageFailure]) -> String {
    if undo.is_empty() { String::new() } else { format!("; undoing it failed too: {}", join(undo)) }
}
