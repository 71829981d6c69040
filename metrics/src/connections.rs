//! The connections of the pages: a number of them at once. Where there are more, the oldest of those that have not
//! requested anything for a while gives way: clients that connect and stay silent keep no scraper out for long.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::AbortHandle;
use tokio::time::Instant;

/// Time for a request to arrive and be read, also when many arrive at once.
const PATIENCE: Duration = Duration::from_secs(1);

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
    tasks: BTreeMap<Number, (Instant, AbortHandle)>,
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
        let permit = Arc::clone(&self.permits).acquire_owned();
        tokio::pin!(permit);
        loop {
            let due = lock(&self.silent).oldest().map(|since| since + PATIENCE);
            let is_due = async {
                match due {
                    Some(due) => tokio::time::sleep_until(due).await,
                    // All have requested something, and have an end.
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                permit = &mut permit => return permit.ok(),
                () = is_due => lock(&self.silent).end_oldest(),
            }
        }
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
        silent.tasks.insert(number, (Instant::now(), tokio::spawn(task).abort_handle()));
    }
}

impl Silent {
    fn oldest(&self) -> Option<Instant> {
        self.tasks.first_key_value().map(|(_, (since, _))| *since)
    }

    /// Unless it has requested something meanwhile.
    fn end_oldest(&mut self) {
        if self.oldest().is_some_and(|since| since + PATIENCE <= Instant::now())
            && let Some((_, (_, oldest))) = self.tasks.pop_first()
        {
            tracing::debug!("a metrics connection that requested nothing gives way to another one");
            oldest.abort();
        }
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
