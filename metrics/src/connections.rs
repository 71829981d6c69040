//! The connections of the pages: a number of them at once. Where there are more, the oldest of those that have not
//! requested anything gives way: clients that connect and stay silent keep no scraper out.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::AbortHandle;

/// The place of a connection among the silent ones.
type Number = u64;

/// The connections under way.
#[derive(Clone)]
pub(crate) struct Connections {
    permits: Arc<Semaphore>,
    silent: Arc<Mutex<Silent>>,
}

#[derive(Default)]
struct Silent {
    next: Number,
    tasks: BTreeMap<Number, AbortHandle>,
}

/// A connection of which nothing was requested yet, until this is dropped or told.
pub(crate) struct SilentConnection {
    number: Number,
    silent: Arc<Mutex<Silent>>,
}

impl Connections {
    /// `max` at once.
    pub fn new(max: usize) -> Self {
        Self { permits: Arc::new(Semaphore::new(max)), silent: Arc::default() }
    }

    /// Waits until there is room for one more. None never happens: it would mean that this is closed.
    pub async fn permit(&self) -> Option<OwnedSemaphorePermit> {
        if let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() {
            return Some(permit);
        }
        if let Some((_, oldest)) = lock(&self.silent).tasks.pop_first() {
            tracing::debug!("a metrics connection that requested nothing gives way to another one");
            oldest.abort();
        }
        Arc::clone(&self.permits).acquire_owned().await.ok()
    }

    /// Runs the task of a connection, which is silent at first.
    pub fn spawn<F>(&self, task: impl FnOnce(SilentConnection) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        // Locked until the task is in the list: it may have a request at once.
        let mut silent = lock(&self.silent);
        let number = silent.next;
        silent.next += 1;
        let task = task(SilentConnection { number, silent: Arc::clone(&self.silent) });
        silent.tasks.insert(number, tokio::spawn(task).abort_handle());
    }
}

impl SilentConnection {
    /// It has requested something: it stays until its end.
    pub fn has_requested(&self) {
        lock(&self.silent).tasks.remove(&self.number);
    }
}

impl Drop for SilentConnection {
    fn drop(&mut self) {
        self.has_requested();
    }
}

fn lock(silent: &Mutex<Silent>) -> MutexGuard<'_, Silent> {
    silent.lock().unwrap_or_else(PoisonError::into_inner)
}
