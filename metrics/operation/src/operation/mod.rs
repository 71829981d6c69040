//! Runs an operation's stages and undoes them.

mod context;
mod stage;

use std::fmt::Display;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crisp_metrics::Metrics;
use crisp_metrics::operations::Wait;
use crisp_metrics::trace;
use tokio::sync::watch;

use self::context::{Context, Due, Running, later, within, within_due};
pub use self::stage::{Stage, Steps};
use crate::fault::When;
use crate::undo::{DEADLINE, Hanging, UndoList};
use crate::waits;
use crate::{Cancel, Failure, Interrupted, StageFailure};

/// The reported reason for waiting when an operation's work or undo step does not end.
const HANGS: &str = "a thread that does not come back from the kernel; then it is undone";
/// How long a failed operation waits for cancelled blocking work before it reports the failure and leaves the
/// undo to the background.
const STOPPING: Duration = Duration::from_secs(2);

/// One run of one operation. Run it in a task of its own ([`SingleFlight`](crate::SingleFlight) does), so
/// that a client that goes away does not drop it half way, and end it with [`finish`](Self::finish).
pub struct Operation<E> {
    context: Arc<Context>,
    undo: UndoList<E>,
    /// In a lock only so that threads of stages can share the operation.
    holds: Mutex<Vec<Box<dyn Send>>>,
}

impl<E> Operation<E>
where
    E: Display + From<Interrupted> + Send + 'static,
{
    /// `name` is the operation's label in the metrics (`start_container`); `subject` is the object that it
    /// works on (`container 0123…`).
    #[must_use]
    pub fn new(metrics: &Metrics, name: &'static str, subject: impl Into<String>) -> Self {
        Self::cancelled_by(metrics, name, subject, Cancel::new())
    }

    /// Like [`new`](Self::new), with a token by which others cancel the whole operation.
    #[must_use]
    pub fn cancelled_by(
        metrics: &Metrics,
        name: &'static str,
        subject: impl Into<String>,
        cancel: Cancel,
    ) -> Self {
        let context = Context::new(metrics, name, subject.into(), cancel);
        Self { context: Arc::new(context), undo: UndoList::default(), holds: Mutex::default() }
    }

    /// Keeps `guard` (a keyed lock, a lease) until the operation and its undo have ended.
    pub fn hold(&mut self, guard: impl Send + 'static) {
        self.holds.get_mut().unwrap_or_else(PoisonError::into_inner).push(Box::new(guard));
    }

    /// Waits for the turn of this operation, as a stage without a deadline of its own. The list of operations
    /// shows what `turn` waits for.
    pub async fn turn<T>(&self, turn: impl Future<Output = T>) -> T {
        let progress = self.context.listed.progress();
        let _entered = progress.enter("turn", Instant::now());
        waits::within(progress, turn).await
    }

    /// Shows in the list what the operation waits for, until the returned guard is dropped.
    pub fn waits_for(&self, what: &str) -> Wait {
        self.context.listed.progress().waits_for(what.to_owned())
    }

    /// See [`Progress::remark`](crisp_metrics::operations::Progress::remark).
    pub fn remark(&self, text: String) {
        self.context.listed.progress().remark(text);
    }

    /// Registers an undo step for the work that follows; `work` may block. Call it before the work that it
    /// undoes: it must also succeed when nothing or only a part of that work was done.
    pub fn undo(&self, stage: &'static str, work: impl FnOnce() -> Result<(), E> + Send + 'static) {
        self.undo.push(stage, work);
    }

    /// Like [`undo`](Self::undo), for asynchronous work with a deadline of its own.
    pub fn undo_async<F>(
        &self,
        stage: &'static str,
        deadline: Duration,
        work: impl FnOnce() -> F + Send + 'static,
    ) where
        F: Future<Output = Result<(), E>> + Send + 'static,
    {
        self.undo.push_async(stage, deadline, work);
    }

    /// Runs `work` as the stage `name`. At the deadline its future is dropped and its [`Cancel`] token
    /// cancelled; blocking parts go through [`Stage::blocking`].
    ///
    /// # Errors
    /// The error of the work, or [`Interrupted::Deadline`], with the stage's name.
    pub async fn stage<T, F>(
        &self,
        name: &'static str,
        deadline: Duration,
        work: impl FnOnce(Stage<E>) -> F,
    ) -> Result<T, StageFailure<E>>
    where
        F: Future<Output = Result<T, E>>,
    {
        let progress = self.context.listed.progress();
        let mut entered = progress.enter(name, later(deadline));
        let timer = self.context.metrics.stage(self.context.name, name);
        let cancel = self.context.cancel.child();
        let stage = Stage::new(&self.context, &cancel);
        let work = async {
            self.context.fault_async(name, When::Before, &cancel).await?;
            let value = work(stage).await?;
            self.context.fault_async(name, When::After, &cancel).await?;
            Ok(value)
        };
        let work = trace::within(entered.as_parent(), waits::within(progress, work));
        let result = within(deadline, &cancel, work).await;
        let result = result.inspect_err(|cause| entered.fail(cause));
        timer.done(result).map_err(|cause| StageFailure { stage: name, cause })
    }

    /// Runs blocking stages, one after the other, on one thread that answers no requests. At the deadline, or
    /// that of the step under way, the failure names the step, and the [`Cancel`] token of the steps is cancelled.
    ///
    /// # Errors
    /// The error of the first stage that fails, or [`Interrupted::Deadline`] in the stage under way.
    pub async fn blocking<T: Send + 'static>(
        &self,
        deadline: Duration,
        work: impl FnOnce(&Steps<E>) -> Result<T, StageFailure<E>> + Send + 'static,
    ) -> Result<T, StageFailure<E>> {
        let cancel = self.context.cancel.child();
        let (due, of_step) = watch::channel(Due::within(deadline));
        let steps = Steps::new(&self.context, &self.undo, &cancel, due);
        let running = Running::start(&self.context);
        let task = tokio::task::spawn_blocking(move || {
            let _running = running;
            work(&steps)
        });
        let named = |cause| StageFailure { stage: self.context.current(), cause };
        let work = async {
            match task.await {
                Ok(result) => Ok(result),
                Err(error) => Err(Interrupted::from_join(error).into()),
            }
        };
        within_due(of_step, &cancel, work).await.map_err(named)?
    }

    /// Ends the operation. On success the undo steps are dropped; on failure they run, the last registered
    /// first, once no work of the operation is under way any more.
    ///
    /// # Errors
    /// The failure in `result`, with the failures of the undo.
    pub async fn finish<T>(self, result: Result<T, StageFailure<E>>) -> Result<T, Failure<E>> {
        match result {
            Ok(value) => {
                self.undo.clear();
                self.context.listed.end(|| None);
                Ok(value)
            }
            Err(failure) => {
                let context = self.context.clone();
                let failure = self.fail(failure).await;
                context.listed.end(|| Some((failure.failure.stage, failure.reason())));
                Err(failure)
            }
        }
    }

    async fn fail(self, failure: StageFailure<E>) -> Failure<E> {
        let Self { context, undo, holds } = self;
        context.cancel.cancel();
        let (subject, operation) = (context.subject().to_owned(), context.name);
        let last = context.current();
        let undoing = context.listed.progress().enter("undo", later(DEADLINE));
        let stopped = tokio::time::timeout(STOPPING, context.stopped()).await.is_ok();
        let (failures, hanging) =
            if stopped { trace::within(undoing.as_parent(), undo.run()).await } else { (vec![], None) };
        context.count_undo(&failures);
        let pending = if stopped { hanging.as_ref().map(|step| step.stage) } else { Some(last) };
        drop(undoing);
        if let Some(stage) = pending {
            let holds = holds.into_inner().unwrap_or_else(PoisonError::into_inner);
            tracing::error!(%subject, operation, stage, "a stage does not end; the undo waits for it");
            // The operation stays listed from now on, not only once the task runs.
            let progress = context.listed.progress();
            let listed = (progress.enter(stage, Instant::now()), progress.waits_for(HANGS.to_owned()));
            tokio::spawn(async move {
                undo_when_stopped(context, undo, hanging, holds).await;
                drop(listed);
            });
        }
        Failure { subject, operation, failure, undo: failures, pending }
    }
}

/// Undoes an operation when its work that hangs ends at last, or goes on with the undo when the undo step
/// that hangs ends.
async fn undo_when_stopped<E>(
    context: Arc<Context>,
    undo: UndoList<E>,
    mut hanging: Option<Hanging<E>>,
    holds: Vec<Box<dyn Send>>,
) where
    E: Display + From<Interrupted> + Send + 'static,
{
    let (subject, operation) = (context.subject().to_owned(), context.name);
    let mut undone = true;
    context.stopped().await;
    loop {
        let late = match hanging.take() {
            Some(step) => step.ended().await.err(),
            None => None,
        };
        let (failures, next) = undo.run().await;
        for failure in late.iter().chain(&failures) {
            undone = false;
            context.count_undo(std::slice::from_ref(failure));
            tracing::error!(%subject, operation, %failure, "cannot undo");
        }
        hanging = next;
        if hanging.is_none() {
            break;
        }
    }
    tracing::info!(%subject, operation, undone, "what hung has ended");
    drop(holds);
}

#[cfg(test)]
mod tests;
