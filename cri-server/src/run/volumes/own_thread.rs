//! Runs work on file systems that may never answer, each in its own thread, which is abandoned after a
//! deadline. The next try for the same pod waits for the first thread, because the undo of the first must not
//! run beside the second.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::Duration;

use crisp_operation::KeyedLocks;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

/// Locks that the threads hold.
static PLACES: LazyLock<KeyedLocks<PathBuf>> = LazyLock::new(KeyedLocks::default);

/// The reason why there is no result.
#[derive(Debug, thiserror::Error)]
pub enum NoResult {
    /// It was abandoned. The thread undoes its work when it can.
    #[error("the file system does not answer")]
    NoAnswer,
    /// An abandoned thread still works there.
    #[error("the file system does not answer: an earlier try still waits for it")]
    Busy,
    /// The thread cannot be created.
    #[error("cannot start a thread: {0}")]
    Thread(io::Error),
}

/// Runs `work` on the path `place`, after earlier calls for the same path. `work` gets a function that
/// returns whether it was abandoned; then its result is passed to `undo`.
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
