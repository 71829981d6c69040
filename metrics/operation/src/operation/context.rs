//! The shared state of the stages of one run of an operation.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crisp_metrics::Metrics;
use crisp_metrics::operations::RunningOperation;
use tokio::sync::watch;

use crate::fault::{self, Fault, When};
use crate::{Cancel, Interrupted};

pub(super) struct Context {
    pub(super) name: &'static str,
    pub(super) metrics: Metrics,
    pub(super) cancel: Cancel,
    /// Pieces of blocking work that have not ended.
    running: watch::Sender<usize>,
    /// Listed for as long as anything of the operation is under way, a thread that hangs too.
    pub(super) listed: RunningOperation,
}

impl Context {
    pub(super) fn new(metrics: &Metrics, name: &'static str, subject: String, cancel: Cancel) -> Self {
        let listed = metrics.operations().begin(name, subject);
        Self { name, metrics: metrics.clone(), cancel, running: watch::Sender::new(0), listed }
    }

    pub(super) fn subject(&self) -> &str {
        self.listed.progress().subject()
    }

    /// The stage under way, for messages.
    pub(super) fn current(&self) -> &'static str {
        self.listed.progress().last_stage()
    }

    pub(super) async fn stopped(&self) {
        // Cannot fail: the sender is this very struct.
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
    pub(super) fn fault_blocking(
        &self,
        stage: &str,
        when: When,
        cancel: &Cancel,
        limit: Option<Duration>,
    ) -> Result<(), Interrupted> {
        match fault::armed(self.name, stage, self.subject(), when) {
            None => Ok(()),
            Some(Fault::Fail) => Err(Interrupted::Fault),
            Some(Fault::Kill) => fault::kill(),
            Some(Fault::Hang) => {
                let begun = Instant::now();
                while !cancel.is_cancelled() {
                    if let Some(after) = limit.filter(|limit| begun.elapsed() >= *limit) {
                        return Err(Interrupted::Deadline { after });
                    }
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err(Interrupted::Cancelled)
            }
        }
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

/// Runs `work` until it ends, is cancelled, or `deadline` has passed.
pub(super) async fn within<T, E: From<Interrupted>>(
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
