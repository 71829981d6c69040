//! The undo steps of one operation.

use std::fmt::Display;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::{Interrupted, StageFailure};

/// For undo steps that name no deadline of their own.
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

    /// Runs all steps, the last registered first; one that fails does not keep the others from running.
    pub(crate) async fn run(&self) -> Vec<StageFailure<E>> {
        let mut failures = Vec::new();
        while let Some(step) = self.next() {
            let Step { stage, deadline, work } = step;
            let work = async {
                match work {
                    Work::Async(work) => work().await,
                    Work::Blocking(work) => match tokio::task::spawn_blocking(work).await {
                        Ok(result) => result,
                        Err(error) => Err(Interrupted::from_join(error).into()),
                    },
                }
            };
            let result = match tokio::time::timeout(deadline, work).await {
                Ok(result) => result,
                Err(_) => Err(Interrupted::Deadline { after: deadline }.into()),
            };
            if let Err(cause) = result {
                failures.push(StageFailure { stage, cause });
            }
        }
        failures
    }

    fn next(&self) -> Option<Step<E>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }
}
