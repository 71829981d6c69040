//! A stage under way: the handle that its work gets.

use std::fmt::Display;
use std::marker::PhantomData;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crisp_metrics::operations::Wait;
use crisp_metrics::trace;
use tokio::sync::{oneshot, watch};

use super::context::{Context, Due, Running};
use crate::fault::When;
use crate::undo::UndoList;
use crate::{Cancel, Interrupted, StageFailure};

/// A stage under way: the handle that its asynchronous work gets.
pub struct Stage<E> {
    context: Arc<Context>,
    cancel: Cancel,
    cause: PhantomData<fn() -> E>,
}

impl<E> Stage<E> {
    pub(super) fn new(context: &Arc<Context>, cancel: &Cancel) -> Self {
        Self { context: context.clone(), cancel: cancel.clone(), cause: PhantomData }
    }
}

impl<E: From<Interrupted> + Send + 'static> Stage<E> {
    /// Cancelled when the stage's deadline has passed or the operation is cancelled.
    #[must_use]
    pub fn cancel(&self) -> &Cancel {
        &self.cancel
    }

    /// Runs blocking work on a thread that answers no requests. The operation's undo does not begin before
    /// the work has ended.
    ///
    /// # Errors
    /// The error of the work.
    pub async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Cancel) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E> {
        let (running, cancel) = (Running::start(&self.context), self.cancel.clone());
        let span = trace::current();
        let task = tokio::task::spawn_blocking(move || {
            let _running = running;
            trace::run_within(span, || work(&cancel))
        });
        match task.await {
            Ok(result) => result,
            Err(error) => Err(Interrupted::from_join(error).into()),
        }
    }

    /// Like [`blocking`](Self::blocking), on a thread of its own: for work that waits for the network.
    /// Otherwise many slow registries would take all threads of the pool from the operations on containers.
    ///
    /// # Errors
    /// The error of the work.
    pub async fn own_thread<T: Send + 'static>(
        &self,
        thread_name: &'static str,
        work: impl FnOnce(&Cancel) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E> {
        let (running, cancel) = (Running::start(&self.context), self.cancel.clone());
        let (done, result) = oneshot::channel();
        let span = trace::current();
        spawn_on_own_thread(thread_name, move || {
            let _running = running;
            let _ = done.send(trace::run_within(span, || work(&cancel)));
        });
        result.await.unwrap_or_else(|_| Err(Interrupted::Panicked { message: thread_name.to_owned() }.into()))
    }
}

/// Blocking stages that share one thread, see [`Operation::blocking`].
pub struct Steps<E> {
    context: Arc<Context>,
    undo: UndoList<E>,
    cancel: Cancel,
    /// The common deadline of all steps.
    deadline: Due,
    /// The deadline of the step under way, for [`Operation::blocking`].
    due: watch::Sender<Due>,
}

impl<E> Steps<E> {
    pub(super) fn new(
        context: &Arc<Context>,
        undo: &UndoList<E>,
        cancel: &Cancel,
        due: watch::Sender<Due>,
    ) -> Self {
        let deadline = *due.borrow();
        Self { context: context.clone(), undo: undo.clone(), cancel: cancel.clone(), deadline, due }
    }
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

    /// See [`Operation::waits_for`].
    pub fn waits_for(&self, what: &str) -> Wait {
        self.context.listed.progress().waits_for(what.to_owned())
    }

    /// Runs the stage `name`, unless the steps are cancelled.
    ///
    /// # Errors
    /// The error of the work, with the stage's name.
    pub fn step<T>(
        &self,
        name: &'static str,
        work: impl FnOnce() -> Result<T, E>,
    ) -> Result<T, StageFailure<E>> {
        self.run(name, None, work)
    }

    /// As [`step`](Self::step), with a deadline of its own, at which the steps are cancelled.
    ///
    /// # Errors
    /// As for [`step`](Self::step).
    pub fn step_within<T>(
        &self,
        name: &'static str,
        deadline: Duration,
        work: impl FnOnce() -> Result<T, E>,
    ) -> Result<T, StageFailure<E>> {
        self.run(name, Some(deadline), work)
    }

    fn run<T>(
        &self,
        name: &'static str,
        limit: Option<Duration>,
        work: impl FnOnce() -> Result<T, E>,
    ) -> Result<T, StageFailure<E>> {
        let failed = |cause| StageFailure { stage: name, cause };
        self.cancel.check().map_err(|interrupted| failed(interrupted.into()))?;
        let own = limit.map(Due::within).filter(|own| own.at < self.deadline.at);
        let due = own.unwrap_or(self.deadline);
        let mut entered = self.context.listed.progress().enter(name, due.at);
        self.due.send_replace(due);
        let timer = self.context.metrics.stage(self.context.name, name);
        let fault = |when| self.context.fault_blocking(name, when, &self.cancel);
        let work = || trace::run_within(entered.as_parent(), work);
        let result = fault(When::Before).map_err(E::from).and_then(|()| work()).and_then(|value| {
            fault(When::After)?;
            Ok(value)
        });
        let result = result.inspect_err(|cause| entered.fail(cause));
        timer.done(result).map_err(failed)
    }
}

type Work = Box<dyn FnOnce() + Send>;

/// Runs `work` on a thread of its own, or on the pool when no thread can be made.
fn spawn_on_own_thread(name: &str, work: impl FnOnce() + Send + 'static) {
    let work: Arc<Mutex<Option<Work>>> = Arc::new(Mutex::new(Some(Box::new(work))));
    let same = work.clone();
    if std::thread::Builder::new().name(name.to_owned()).spawn(move || run_once(&work)).is_err() {
        tokio::task::spawn_blocking(move || run_once(&same));
    }
}

fn run_once(work: &Mutex<Option<Work>>) {
    let work = work.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(work) = work {
        work();
    }
}
