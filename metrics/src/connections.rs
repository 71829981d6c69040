//! The connections of the pages: a number of them at once. Where there are more, those that wait for their clients for
//! too long give way, one for each new one: clients that connect and stay silent, or do not read, keep no scraper out
//! for long.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until, timeout};

/// Time for a request to arrive and be read, also when many arrive at once.
const REQUEST: Duration = Duration::from_secs(1);
/// Time for a client to read the response.
const RESPONSE: Duration = Duration::from_secs(5);
/// Time for an ended connection to be gone.
const END: Duration = Duration::from_millis(10);

type Number = u64;

/// The connections under way.
#[derive(Clone)]
pub(crate) struct Connections {
    permits: Arc<Semaphore>,
    table: Arc<Mutex<Table>>,
    another_waits: Arc<Notify>,
}

#[derive(Default)]
struct Table {
    next: Number,
    tasks: BTreeMap<Number, AbortHandle>,
    /// Those that wait for their client, by the time from which on they may be ended.
    waiting: BTreeSet<(Instant, Number)>,
}

/// A connection, for its task.
pub(crate) struct Connection {
    number: Number,
    all: Connections,
}

impl Connections {
    /// `max` at once.
    pub fn new(max: usize) -> Self {
        Self { permits: Arc::new(Semaphore::new(max)), table: Arc::default(), another_waits: Arc::default() }
    }

    /// Waits until there is room for one more. None never happens: it would mean that this is closed.
    pub async fn permit(&self) -> Option<OwnedSemaphorePermit> {
        if let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() {
            return Some(permit);
        }
        let permit = Arc::clone(&self.permits).acquire_owned();
        tokio::pin!(permit);
        loop {
            let due = lock(&self.table).first_due();
            let is_due = async {
                match due {
                    Some(due) => sleep_until(due).await,
                    // None waits for its client yet.
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                permit = &mut permit => return permit.ok(),
                () = is_due => {}
                () = self.another_waits.notified() => continue,
            }
            lock(&self.table).end_first_due();
            // One at a time: the next one may not have to go.
            if let Ok(permit) = timeout(END, &mut permit).await {
                return permit.ok();
            }
        }
    }

    /// Runs the task of a connection, which waits for a request at first.
    pub fn spawn<F>(&self, task: impl FnOnce(Connection) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        // Locked until the task is in the table: it may have a request at once.
        let mut table = lock(&self.table);
        let number = table.next;
        table.next += 1;
        let task = task(Connection { number, all: self.clone() });
        table.tasks.insert(number, tokio::spawn(task).abort_handle());
        table.waits(number, REQUEST);
    }
}

impl Table {
    fn first_due(&self) -> Option<Instant> {
        self.waiting.first().map(|(due, _)| *due)
    }

    /// Unless its client has done something meanwhile.
    fn end_first_due(&mut self) {
        if self.first_due().is_some_and(|due| due <= Instant::now())
            && let Some((_, number)) = self.waiting.pop_first()
            && let Some(task) = self.tasks.get(&number)
        {
            tracing::debug!("a metrics connection that waits for its client gives way to another one");
            task.abort();
        }
    }

    fn waits(&mut self, number: Number, patience: Duration) {
        self.waiting.insert((Instant::now() + patience, number));
    }

    fn waits_no_more(&mut self, number: Number) {
        self.waiting.retain(|(_, waiting)| *waiting != number);
    }
}

impl Connection {
    /// It has requested something, and waits for the server now.
    pub fn has_requested(&self) {
        lock(&self.all.table).waits_no_more(self.number);
    }

    /// Its client can read the response.
    pub fn has_response(&self) {
        lock(&self.all.table).waits(self.number, RESPONSE);
        self.all.another_waits.notify_one();
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let mut table = lock(&self.all.table);
        table.tasks.remove(&self.number);
        table.waits_no_more(self.number);
    }
}

fn lock(table: &Mutex<Table>) -> MutexGuard<'_, Table> {
    table.lock().unwrap_or_else(PoisonError::into_inner)
}
