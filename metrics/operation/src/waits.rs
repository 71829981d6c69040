//! The reason why the present operation waits: set deep in its work, which does not know the operation.

use std::future::Future;
use std::sync::Arc;

use crisp_metrics::operations::{Progress, Wait};

tokio::task_local! {
    static CURRENT: Arc<Progress>;
}

/// Says what the operation waits for, until what this returns is dropped. Outside of a stage it says nothing.
pub fn waits_for(what: impl FnOnce() -> String) -> Option<Wait> {
    CURRENT.try_with(|progress| progress.waits_for(what())).ok()
}

/// Work of the operation under way that goes on in another task.
pub fn of_this_operation<T>(work: impl Future<Output = T>) -> impl Future<Output = T> {
    let current = CURRENT.try_with(Arc::clone).ok();
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
