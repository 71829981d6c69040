//! Work on file systems that may never answer: each in a thread of its own, which is given up after a deadline. A pod
//! that is tried again does not get a second thread: its next try waits for the first, whose undo must not run beside
//! it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::Duration;

use crisp_operation::KeyedLocks;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

/// Held by the threads.
static PLACES: LazyLock<KeyedLocks<PathBuf>> = LazyLock::new(KeyedLocks::default);

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub enum NoResult {
    /// It was given up. The thread undoes what it does, when it can.
    #[error("the file system does not answer")]
    NoAnswer,
    /// A thread that was given up is still at work there.
    #[error("the file system does not answer: an earlier try still waits for it")]
    Busy,
    /// No thread.
    #[error("cannot start a thread: {0}")]
    Thread(io::Error),
}

/// Runs `work` for what is at `place`, after that of earlier calls. It is told how to find out whether it was given
/// up; its result is `undo`ne then.
///
/// # Errors
/// [`NoResult`].
pub async fn in_own_thread<T: Send + 'static>(
    place: &Path,
    deadline: Duration,
    work: impl FnOnce(&dyn Fn() -> bool) -> T + Send + 'static,
    undo: impl FnOnce(T) + Send + 'static,
) -> Result<T, NoResult> {
    let end = Instant::now() + deadline;
    let turn = PLACES.lock_within(place.to_owned(), "volumes", deadline).await;
    let turn = turn.map_err(|_| NoResult::Busy)?;
    let (sender, result) = oneshot::channel();
    let run = move || {
        let done = work(&|| sender.is_closed());
        if let Err(unwanted) = sender.send(done) {
            undo(unwanted);
        }
        drop(turn);
    };
    std::thread::Builder::new().name("volumes".to_owned()).spawn(run).map_err(NoResult::Thread)?;
    match timeout_at(end, result).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(_)) | Err(_) => Err(NoResult::NoAnswer),
    }
}
