//! Operations as lists of named stages with deadlines, timed in the metrics; see [`Failure`] for how
//! one that failed is told.

use std::fmt;
use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crisp_executor::cgroup::{CgroupError, InvalidCgroupPath};
use crisp_executor::compile::CompileError;
use crisp_executor::in_root::InRootError;
use crisp_executor::rootfs::RootfsError;
use crisp_executor::user::UserError;
use crisp_image_service::store::StoreError;
use crisp_metrics::Metrics;
use crisp_sandbox::NotReady;
use crisp_sandbox::link::LinkError;

use crate::container::record::RecordError;
use crate::container::state::Refusal;
use crate::container::status_cell::StatusError;
use crate::spec::SpecError;

/// Why a stage failed.
#[derive(Debug, thiserror::Error)]
pub enum Cause {
    #[error("{path}: {source}", path = path.display())]
    File { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Record(#[from] RecordError),
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error(transparent)]
    Spec(#[from] SpecError),
    #[error(transparent)]
    User(#[from] UserError),
    #[error(transparent)]
    Image(#[from] InRootError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Rootfs(#[from] RootfsError),
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    #[error(transparent)]
    Compile(#[from] CompileError),
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error(transparent)]
    PodNotReady(#[from] NotReady),
    #[error("{0}")]
    Kernel(rustix::io::Errno),
    #[error("not done after {} ms", after.as_millis())]
    Deadline { after: Duration },
    #[error("its task ended early: {0}")]
    Task(String),
}

impl From<StatusError> for Cause {
    fn from(error: StatusError) -> Self {
        match error {
            StatusError::Refused(refusal) => Self::Refused(refusal),
            StatusError::Record(record) => Self::Record(record),
        }
    }
}

impl From<InvalidCgroupPath> for Cause {
    fn from(error: InvalidCgroupPath) -> Self {
        Self::Cgroup(error.into())
    }
}

impl Cause {
    /// Names the file in an I/O error.
    pub fn file(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { path, source }
    }
}

/// The stage that failed, and why.
#[derive(Debug, thiserror::Error)]
#[error("stage {stage}: {cause}")]
pub struct StageFailure {
    pub stage: &'static str,
    pub cause: Cause,
}

/// An operation that did not end as asked: what failed, and what failed while undoing it.
#[derive(Debug, thiserror::Error)]
#[error("{subject}: {operation}: {failure}{}", Undo(undo))]
pub struct Failure {
    /// Container or pod, with its id.
    pub subject: String,
    pub operation: &'static str,
    pub failure: StageFailure,
    pub undo: Vec<StageFailure>,
}

struct Undo<'a>(&'a [StageFailure]);

impl fmt::Display for Undo<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, failure) in self.0.iter().enumerate() {
            let lead = if i == 0 { "; undoing it failed too: " } else { "; " };
            write!(f, "{lead}{failure}")?;
        }
        Ok(())
    }
}

/// The stages of one operation.
#[derive(Clone)]
pub struct Stages {
    metrics: Metrics,
    operation: &'static str,
}

impl Stages {
    #[must_use]
    pub fn new(metrics: &Metrics, operation: &'static str) -> Self {
        Self { metrics: metrics.clone(), operation }
    }

    /// Awaits `work` as the stage `name`.
    ///
    /// # Errors
    /// What the work failed with, or that `deadline` passed; with the stage's name.
    pub async fn run<T>(
        &self,
        name: &'static str,
        deadline: Duration,
        work: impl Future<Output = Result<T, Cause>>,
    ) -> Result<T, StageFailure> {
        let timer = self.metrics.stage(self.operation, name);
        let result = match tokio::time::timeout(deadline, work).await {
            Ok(result) => result,
            Err(_) => Err(Cause::Deadline { after: deadline }),
        };
        timer.done(result).map_err(|cause| StageFailure { stage: name, cause })
    }

    /// Runs blocking stages, one after the other, on one thread away from those that answer requests.
    /// A thread that hangs is left behind when the deadline passes, and the error names its stage.
    ///
    /// # Errors
    /// The first stage that fails, or the one under way when `deadline` passed.
    pub async fn blocking<T: Send + 'static>(
        &self,
        deadline: Duration,
        work: impl FnOnce(&Steps) -> Result<T, StageFailure> + Send + 'static,
    ) -> Result<T, StageFailure> {
        let steps = Steps { stages: self.clone(), current: Arc::new(Mutex::new("begin")) };
        let current = steps.current.clone();
        let task = tokio::task::spawn_blocking(move || work(&steps));
        let now = || *current.lock().unwrap_or_else(PoisonError::into_inner);
        match tokio::time::timeout(deadline, task).await {
            Ok(Ok(result)) => result,
            Ok(Err(error)) => Err(StageFailure { stage: now(), cause: Cause::Task(error.to_string()) }),
            Err(_) => Err(StageFailure { stage: now(), cause: Cause::Deadline { after: deadline } }),
        }
    }
}

/// Blocking stages that follow each other, see [`Stages::blocking`].
pub struct Steps {
    stages: Stages,
    current: Arc<Mutex<&'static str>>,
}

impl Steps {
    /// Runs the stage `name`.
    ///
    /// # Errors
    /// What the work failed with, with the stage's name.
    pub fn step<T>(
        &self,
        name: &'static str,
        work: impl FnOnce() -> Result<T, Cause>,
    ) -> Result<T, StageFailure> {
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = name;
        let timer = self.stages.metrics.stage(self.stages.operation, name);
        timer.done(work()).map_err(|cause| StageFailure { stage: name, cause })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stages() -> Stages {
        Stages::new(&Metrics::new("test").unwrap(), "test")
    }

    #[tokio::test]
    async fn a_deadline_names_the_stage_under_way() {
        let work = |steps: &Steps| {
            steps.step("quick", || Ok(()))?;
            steps.step("slow", || {
                std::thread::sleep(Duration::from_millis(200));
                Ok(())
            })
        };
        let failure = stages().blocking(Duration::from_millis(50), work).await.unwrap_err();
        assert_eq!(failure.to_string(), "stage slow: not done after 50 ms");
    }

    #[test]
    fn both_failures_are_told() {
        let stage = |stage| StageFailure { stage, cause: Cause::Task("x".into()) };
        let failure = Failure {
            subject: "container c".into(),
            operation: "start",
            failure: stage("cgroup"),
            undo: vec![stage("root"), stage("log")],
        };
        assert_eq!(
            failure.to_string(),
            "container c: start: stage cgroup: its task ended early: x; undoing it failed too: \
             stage root: its task ended early: x; stage log: its task ended early: x"
        );
    }
}
