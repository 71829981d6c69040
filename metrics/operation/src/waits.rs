//! The reason why the present operation waits. Code deep in its work, which does not know the operation, sets
//! it.

use std::future::Future;
use std::sync::Arc;

use crisp_metrics::operations::{Progress, Wait};
use crisp_metrics::trace;

tokio::task_local! {
    static CURRENT: Arc<Progress>;
}

/// Shows in the list what the operation waits for, until the returned guard is dropped. Does nothing outside
/// of a stage.
pub fn waits_for(what: impl FnOnce() -> String) -> Option<Wait> {
    CURRENT.try_with(|progress| progress.waits_for(what())).ok()
}

/// Makes `work`, which runs in another task, a part of the present operation, and of its trace.
pub fn of_this_operation<T>(work: impl Future<Output = T>) -> impl Future<Output = T> {
    let current = CURRENT.try_with(Arc::clone).ok();
    let work = trace::in_current(work);
    async move {
        match current {
            Some(progress) => CURRENT.scope(progress, work).await,
            None => work.await,
        }
    }
}

pub(crate) fn within<T>(progress: &Arc<Progress>, work: impl Future<Output = T>) -> impl Future<Output = T> {
    CURRENT.scope(progress.clone(), work)
}
