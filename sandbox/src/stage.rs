//! A stage: one named step of an operation, with a deadline and a timing in the metrics.

use std::future::Future;
use std::time::Duration;

use crisp_metrics::Metrics;

use crate::error::{StageCause, StageFailure};

/// Runs `work` as the stage `name` of `operation`.
///
/// # Errors
/// What the work failed with, or that it was not done within `deadline`; with the stage's name.
pub(crate) async fn stage<T>(
    metrics: &Metrics,
    operation: &'static str,
    name: &'static str,
    deadline: Duration,
    work: impl Future<Output = Result<T, StageCause>>,
) -> Result<T, StageFailure> {
    let timer = metrics.stage(operation, name);
    let result = match tokio::time::timeout(deadline, work).await {
        Ok(result) => result,
        Err(_) => Err(StageCause::Deadline { after: deadline }),
    };
    match result {
        Ok(value) => {
            timer.ok();
            Ok(value)
        }
        Err(cause) => {
            timer.failed();
            Err(StageFailure { stage: name, cause })
        }
    }
}

/// Runs blocking work (files, cgroups) away from the threads that answer requests.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StageCause> + Send + 'static,
) -> Result<T, StageCause> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(StageCause::Task(error.to_string())),
    }
}
