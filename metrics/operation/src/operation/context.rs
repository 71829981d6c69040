//! The shared state of the stages of one run of an operation.

use std::fmt::Display;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crisp_metrics::Metrics;
use crisp_metrics::operations::RunningOperation;
use tokio::sync::watch;

use crate::fault::{self, Fault, When};
use crate::{Cancel, Interrupted, StageFailure};

/// Interval for looking up the deadline of blocking work.
const LOOK: Duration = Duration::from_millis(500);

pub(super) struct Context {
    pub(super) name: &'static str,
    pub(super) metrics: Metrics,
    pub(super) cancel: Cancel,
    /// The number of pieces of blocking work that have not ended.
    running: watch::Sender<usize>,
    /// The entry in the list of operations, for as long as anything of the operation is under way, also a
    /// thread that hangs.
    pub(super) listed: RunningOperation,
}

impl Context {
    pub(super) fn new(metrics: &Metrics, name: &'static str, subject: String, cancel: Cancel) -> Self {
        let listed = metrics.operations().begin(name, subject);
        Self { name, metrics: metrics.clone(), cancel, running: watch::Sender::new(0), listed }
    }

    pub(super) fn count_undo<E: Display>(&self, failures: &[StageFailure<E>]) {
        failures.iter().for_each(|failure| self.metrics.undo_failed(self.name, failure.stage));
    }

    pub(super) fn subject(&self) -> &str {
        self.listed.progress().subject()
    }

    /// The stage under way, for error messages.
    pub(super) fn current(&self) -> &'static str {
        self.listed.progress().last_stage()
    }

    pub(super) async fn stopped(&self) {
        // Cannot fail: the sender is a field of this struct.
        let _ = self.running.subscribe().wait_for(|running| *running == 0).await;
    }

    pub(super) async fn fault_async(
        &self,
        stage: &str,
        when: When,
        cancel: &Cancel,
    ) -> Result<(), Interrupted> {
        match fault::armed(self.name, stage, self.subject(), when) {
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
    pub(super) fn fault_blocking(&self, stage: &str, when: When, cancel: &Cancel) -> Result<(), Interrupted> {
        match fault::armed(self.name, stage, self.subject(), when) {
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

/// A deadline, and the time after which it is, for messages.
#[derive(Debug, Clone, Copy)]
pub(super) struct Due {
    pub(super) at: Instant,
    pub(super) after: Duration,
}

impl Due {
    pub(super) fn within(after: Duration) -> Self {
        Self { at: later(after), after }
    }
}

pub(super) fn later(deadline: Duration) -> Instant {
    let now = Instant::now();
    now.checked_add(deadline).unwrap_or(now)
}

/// A piece of blocking work, counted until it ends.
pub(super) struct Running(Arc<Context>);

impl Running {
    pub(super) fn start(context: &Arc<Context>) -> Self {
        context.running.send_modify(|running| *running += 1);
        Self(context.clone())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.send_modify(|running| *running -= 1);
    }
}

/// Runs `work` until it ends, is cancelled, or the deadline in `due` has passed. Changes of the deadline wake nothing,
/// which would slow the work down: it is looked up every [`LOOK`].
pub(super) async fn within_due<T, E: From<Interrupted>>(
    due: watch::Receiver<Due>,
    cancel: &Cancel,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    let guard = CancelOnDrop(cancel);
    let deadline = async {
        loop {
            let Due { at, after } = *due.borrow();
            let now = tokio::time::Instant::now();
            if now >= at.into() {
                return after;
            }
            tokio::time::sleep_until((now + LOOK).min(at.into())).await;
        }
    };
    let result = tokio::select! {
        biased;
        result = work => result,
        () = cancel.cancelled() => Err(Interrupted::Cancelled.into()),
        after = deadline => Err(Interrupted::Deadline { after }.into()),
    };
    drop(guard);
    result
}

/// Runs `work` until it ends, is cancelled, or `deadline` has passed.
pub(super) async fn within<T, E: From<Interrupted>>(
    deadline: Duration,
    cancel: &Cancel,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    // The guard also cancels when this future is dropped, so that no blocking work continues unobserved.
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
