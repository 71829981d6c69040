//! The reasons for stopping work, and the token that stops it.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

/// The reason why work was stopped from outside. Every error type of a stage can be made from it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Interrupted {
    #[error("not done after {} ms", after.as_millis())]
    Deadline { after: Duration },
    #[error("cancelled")]
    Cancelled,
    #[error("given up because the server is shutting down")]
    ShuttingDown,
    /// A defect of the server; release builds abort instead.
    #[error("the server's own code failed: {message}")]
    Panicked { message: String },
    /// See [`fault`](crate::fault).
    #[error("failed on request of a test")]
    Fault,
}

impl Interrupted {
    /// The reason why a task ended without a result.
    pub(crate) fn from_join(error: tokio::task::JoinError) -> Self {
        match error.try_into_panic() {
            Ok(panic) => {
                let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
                let message = text.or_else(|| panic.downcast_ref::<String>().cloned());
                Self::Panicked { message: message.unwrap_or_else(|| "panic".to_owned()) }
            }
            Err(_) => Self::ShuttingDown,
        }
    }
}

/// Tells work to stop. Blocking work calls [`check`](Self::check) between system calls, in each turn of
/// its loops.
#[derive(Debug, Clone, Default)]
pub struct Cancel(CancellationToken, Arc<()>);

impl Cancel {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A token that is cancelled together with this one, or alone.
    #[must_use]
    pub fn child(&self) -> Self {
        Self(self.0.child_token(), Arc::default())
    }

    /// Whether the two are clones of each other.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.1, &other.1)
    }

    /// Cancels this one and its children.
    pub fn cancel(&self) {
        self.0.cancel();
    }

    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.0.is_cancelled()
    }

    /// Returns once the token is cancelled.
    pub async fn cancelled(&self) {
        self.0.cancelled().await;
    }

    /// # Errors
    /// [`Interrupted::Cancelled`] once the token is cancelled.
    pub fn check(&self) -> Result<(), Interrupted> {
        if self.is_cancelled() { Err(Interrupted::Cancelled) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_is_cancelled_with_its_parent_and_not_the_other_way() {
        let parent = Cancel::new();
        let (one, two) = (parent.child(), parent.child());
        one.cancel();
        assert_eq!((one.is_cancelled(), two.is_cancelled(), parent.is_cancelled()), (true, false, false));
        parent.cancel();
        assert_eq!(two.check(), Err(Interrupted::Cancelled));
    }
}
