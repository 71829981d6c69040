//! The undo steps of one operation.

use std::fmt::Display;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crisp_metrics::trace;
use tokio::task::{JoinError, JoinHandle};

use crate::{Interrupted, StageFailure};

/// The deadline of undo steps that do not name one.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

type Async<E> = Pin<Box<dyn Future<Output = Result<(), E>> + Send>>;

/// One undo step.
enum Work<E> {
    Blocking(Box<dyn FnOnce() -> Result<(), E> + Send>),
    Async(Box<dyn FnOnce() -> Async<E> + Send>),
}

struct Step<E> {
    stage: &'static str,
    deadline: Duration,
    work: Work<E>,
}

/// Undo steps in the order in which they were registered.
pub(crate) struct UndoList<E>(Arc<Mutex<Vec<Step<E>>>>);

impl<E> Clone for UndoList<E> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<E> Default for UndoList<E> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<E> UndoList<E>
where
    E: Display + From<Interrupted> + Send + 'static,
{
    pub(crate) fn push(&self, stage: &'static str, work: impl FnOnce() -> Result<(), E> + Send + 'static) {
        self.add(Step { stage, deadline: DEADLINE, work: Work::Blocking(Box::new(work)) });
    }

    pub(crate) fn push_async<F>(
        &self,
        stage: &'static str,
        deadline: Duration,
        work: impl FnOnce() -> F + Send + 'static,
    ) where
        F: Future<Output = Result<(), E>> + Send + 'static,
    {
        self.add(Step { stage, deadline, work: Work::Async(Box::new(|| Box::pin(work()))) });
    }

    fn add(&self, step: Step<E>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(step);
    }

    pub(crate) fn clear(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Runs the steps, the last registered first. A step that fails does not stop the others. A step that
    /// misses its deadline does, because it continues and the steps after it must not run at the same time:
    /// they are left to the next call, once [`Hanging::ended`] has returned.
    pub(crate) async fn run(&self) -> (Vec<StageFailure<E>>, Option<Hanging<E>>) {
        let mut failures = Vec::new();
        while let Some(Step { stage, deadline, work }) = self.next() {
            let mut span = trace::span(stage);
            let parent = span.as_parent();
            let mut task = match work {
                Work::Async(work) => tokio::spawn(trace::within(parent, work())),
                Work::Blocking(work) => tokio::task::spawn_blocking(|| trace::run_within(parent, work)),
            };
            let failure = |cause| StageFailure { stage, cause };
            match tokio::time::timeout(deadline, &mut task).await {
                Ok(ended) => failures.extend(span.done(flatten(ended)).err().map(failure)),
                Err(_) => {
                    let late = Interrupted::Deadline { after: deadline };
                    span.fail(&late);
                    failures.push(failure(late.into()));
                    return (failures, Some(Hanging { stage, task }));
                }
            }
        }
        (failures, None)
    }

    fn next(&self) -> Option<Step<E>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }
}

fn flatten<E: From<Interrupted>>(joined: Result<Result<(), E>, JoinError>) -> Result<(), E> {
    joined.unwrap_or_else(|error| Err(Interrupted::from_join(error).into()))
}

/// An undo step that has not ended at its deadline.
pub(crate) struct Hanging<E> {
    pub(crate) stage: &'static str,
    task: JoinHandle<Result<(), E>>,
}

impl<E: From<Interrupted>> Hanging<E> {
    /// Waits for the step to end.
    pub(crate) async fn ended(self) -> Result<(), StageFailure<E>>
    where
        E: Display,
    {
        flatten(self.task.await).map_err(|cause| StageFailure { stage: self.stage, cause })
    }
}
