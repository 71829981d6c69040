//! Runs an operation's stages and undoes them.

use std::fmt::Display;
use std::future::Future;
use std::marker::PhantomData;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crisp_metrics::Metrics;
use tokio::sync::watch;

use crate::fault::{self, Fault, When};
use crate::undo::{Hanging, UndoList};
use crate::{Cancel, Failure, Interrupted, StageFailure};

/// How long a failed operation waits for blocking work that was told to stop, before it reports the
/// failure and leaves the undo to the background.
const STOPPING: Duration = Duration::from_secs(2);

/// One run of one operation. Run it in a task of its own ([`SingleFlight`](crate::SingleFlight) does), so
/// that a client that goes away does not drop it half way, and end it by [`finish`](Self::finish).
pub struct Operation<E> {
    context: Arc<Context>,
    undo: UndoList<E>,
    /// In a lock only so that stages can share the operation between threads.
    holds: Mutex<Vec<Box<dyn Send>>>,
}

/// What the stages of one run share.
struct Context {
    name: &'static str,
    subject: String,
    metrics: Metrics,
    cancel: Cancel,
    /// Pieces of blocking work that have not ended.
    running: watch::Sender<usize>,
    /// The stage under way, for messages.
    current: Mutex<&'static str>,
}

impl<E> Operation<E>
where
    E: Display + From<Interrupted> + Send + 'static,
{
    /// `name` is the operation's label in the metrics (`start_container`); `subject` is what it is about
    /// (`container 0123…`).
    #[must_use]
    pub fn new(metrics: &Metrics, name: &'static str, subject: impl Into<String>) -> Self {
        Self::cancelled_by(metrics, name, subject, Cancel::new())
    }

    /// As [`new`](Self::new), with a token by which others cancel the whole operation.
    #[must_use]
    pub fn cancelled_by(
        metrics: &Metrics,
        name: &'static str,
        subject: impl Into<String>,
        cancel: Cancel,
    ) -> Self {
        let context = Context {
            name,
            subject: subject.into(),
            metrics: metrics.clone(),
            cancel,
            running: watch::Sender::new(0),
            current: Mutex::new("begin"),
        };
        Self { context: Arc::new(context), undo: UndoList::default(), holds: Mutex::default() }
    }

    /// Keeps `guard` (a keyed lock, a lease) until the operation has ended and its undo too.
    pub fn hold(&mut self, guard: impl Send + 'static) {
        self.holds.get_mut().unwrap_or_else(PoisonError::into_inner).push(Box::new(guard));
    }

    /// Registers an undo step for what comes next; `work` blocks. Call it before the work that it undoes:
    /// it must also succeed when nothing or only a part of that was done.
    pub fn undo(&self, stage: &'static str, work: impl FnOnce() -> Result<(), E> + Send + 'static) {
        self.undo.push(stage, work);
    }

    /// As [`undo`](Self::undo), for asynchronous work with a deadline of its own.
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
    /// What the work failed with, or [`Interrupted::Deadline`]; with the stage's name.
    pub async fn stage<T, F>(
        &self,
        name: &'static str,
        deadline: Duration,
        work: impl FnOnce(Stage<E>) -> F,
    ) -> Result<T, StageFailure<E>>
    where
        F: Future<Output = Result<T, E>>,
    {
        self.context.enter(name);
        let timer = self.context.metrics.stage(self.context.name, name);
        let cancel = self.context.cancel.child();
        let stage = Stage { context: self.context.clone(), cancel: cancel.clone(), cause: PhantomData };
        let work = async {
            self.context.fault_async(name, When::Before, &cancel).await?;
            let value = work(stage).await?;
            self.context.fault_async(name, When::After, &cancel).await?;
            Ok(value)
        };
        let result = within(deadline, &cancel, work).await;
        timer.done(result).map_err(|cause| StageFailure { stage: name, cause })
    }

    /// Runs blocking stages, one after the other, on one thread away from those that answer requests.
    /// At the deadline the failure names the stage under way, and the [`Cancel`] token of the steps is
    /// cancelled.
    ///
    /// # Errors
    /// The first stage that fails, or the one under way when `deadline` passed.
    pub async fn blocking<T: Send + 'static>(
        &self,
        deadline: Duration,
        work: impl FnOnce(&Steps<E>) -> Result<T, StageFailure<E>> + Send + 'static,
    ) -> Result<T, StageFailure<E>> {
        let cancel = self.context.cancel.child();
        let steps = Steps { context: self.context.clone(), undo: self.undo.clone(), cancel: cancel.clone() };
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
        within(deadline, &cancel, work).await.map_err(named)?
    }

    /// Ends the operation: on success the undo steps are dropped, else they run, the last registered
    /// first, once no work of the operation is under way any more.
    ///
    /// # Errors
    /// `result`'s failure, with those of the undo.
    pub async fn finish<T>(self, result: Result<T, StageFailure<E>>) -> Result<T, Failure<E>> {
        match result {
            Ok(value) => {
                self.undo.clear();
                Ok(value)
            }
            Err(failure) => Err(self.fail(failure).await),
        }
    }

    async fn fail(self, failure: StageFailure<E>) -> Failure<E> {
        let Self { context, undo, holds } = self;
        context.cancel.cancel();
        let (subject, operation) = (context.subject.clone(), context.name);
        let stopped = tokio::time::timeout(STOPPING, context.stopped()).await.is_ok();
        let (failures, hanging) = if stopped { undo.run().await } else { (vec![], None) };
        let pending = if stopped { hanging.as_ref().map(|step| step.stage) } else { Some(context.current()) };
        if let Some(stage) = pending {
            let holds = holds.into_inner().unwrap_or_else(PoisonError::into_inner);
            tracing::error!(%subject, operation, stage, "a stage does not end; the undo waits for it");
            tokio::spawn(undo_when_stopped(context, undo, hanging, holds));
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
    let (subject, operation) = (&context.subject, context.name);
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

async fn within<T, E: From<Interrupted>>(
    deadline: Duration,
    cancel: &Cancel,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    // Set also when this future is dropped, so that blocking work does not go on unobserved.
    let guard = CancelOnDrop(cancel);
    let result = tokio::select! {
        biased;
        result = work => result,
        () = cancel.cancelled() => Err(Interrupted::Cancelled.into()),
        () = tokio::time::sleep(deadline) => Err(Interrupted::Deadline { after: deadline }.into()),
    };
    drop(guard);
    result
}

struct CancelOnDrop<'a>(&'a Cancel);

impl Drop for CancelOnDrop<'_> {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

impl Context {
    fn enter(&self, stage: &'static str) {
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = stage;
    }

    fn current(&self) -> &'static str {
        *self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn stopped(&self) {
        // Cannot fail: the sender is this very struct.
        let _ = self.running.subscribe().wait_for(|running| *running == 0).await;
    }

    async fn fault_async(&self, stage: &str, when: When, cancel: &Cancel) -> Result<(), Interrupted> {
        match fault::armed(self.name, stage, &self.subject, when) {
            None => Ok(()),
            Some(Fault::Fail) => Err(Interrupted::Fault),
            Some(Fault::Kill) => fault::kill(),
            Some(Fault::Hang) => {
                cancel.cancelled().await;
                Err(Interrupted::Cancelled)
            }
        }
    }

    #[expect(clippy::disallowed_methods, reason = "this runs on a thread of blocking work")]
    fn fault_blocking(&self, stage: &str, when: When, cancel: &Cancel) -> Result<(), Interrupted> {
        match fault::armed(self.name, stage, &self.subject, when) {
            None => Ok(()),
            Some(Fault::Fail) => Err(Interrupted::Fault),
            Some(Fault::Kill) => fault::kill(),
            Some(Fault::Hang) => {
                while !cancel.is_cancelled() {
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err(Interrupted::Cancelled)
            }
        }
    }
}

/// A piece of blocking work, counted until it ends.
struct Running(Arc<Context>);

impl Running {
    fn start(context: &Arc<Context>) -> Self {
        context.running.send_modify(|running| *running += 1);
        Self(context.clone())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.send_modify(|running| *running -= 1);
    }
}

/// A stage under way, as its asynchronous work sees it.
pub struct Stage<E> {
    context: Arc<Context>,
    cancel: Cancel,
    cause: PhantomData<fn() -> E>,
}

impl<E: From<Interrupted> + Send + 'static> Stage<E> {
    /// Cancelled when the stage's deadline has passed or the operation is cancelled.
    #[must_use]
    pub fn cancel(&self) -> &Cancel {
        &self.cancel
    }

    /// Runs blocking work on a thread away from those that answer requests. The operation's undo does
    /// not begin before it has ended.
    ///
    /// # Errors
    /// The work's own.
    pub async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Cancel) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E> {
        let (running, cancel) = (Running::start(&self.context), self.cancel.clone());
        let task = tokio::task::spawn_blocking(move || {
            let _running = running;
            work(&cancel)
        });
        match task.await {
            Ok(result) => result,
            Err(error) => Err(Interrupted::from_join(error).into()),
        }
    }
}

/// Blocking stages that share one thread, see [`Operation::blocking`].
pub struct Steps<E> {
    context: Arc<Context>,
    undo: UndoList<E>,
    cancel: Cancel,
}

impl<E> Steps<E>
where
    E: Display + From<Interrupted> + Send + 'static,
{
    /// Cancelled when the deadline has passed or the operation is cancelled.
    #[must_use]
    pub fn cancel(&self) -> &Cancel {
        &self.cancel
    }

    /// See [`Operation::undo`].
    pub fn undo(&self, stage: &'static str, work: impl FnOnce() -> Result<(), E> + Send + 'static) {
        self.undo.push(stage, work);
    }

    /// Runs the stage `name`, unless the steps are cancelled.
    ///
    /// # Errors
    /// What the work failed with, with the stage's name.
    pub fn step<T>(
        &self,
        name: &'static str,
        work: impl FnOnce() -> Result<T, E>,
    ) -> Result<T, StageFailure<E>> {
        let failed = |cause| StageFailure { stage: name, cause };
        self.cancel.check().map_err(|interrupted| failed(interrupted.into()))?;
        self.context.enter(name);
        let timer = self.context.metrics.stage(self.context.name, name);
        let result = self
            .context
            .fault_blocking(name, When::Before, &self.cancel)
            .map_err(E::from)
            .and_then(|()| work())
            .and_then(|value| {
                self.context.fault_blocking(name, When::After, &self.cancel)?;
                Ok(value)
            });
        timer.done(result).map_err(failed)
    }
}

#[cfg(test)]
mod tests;
