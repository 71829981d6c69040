//! Equal requests are one operation: the first starts it, and requests that arrive while it runs get its
//! result.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

use crisp_metrics::trace;
use tokio::sync::watch;

use crate::{Cancel, Interrupted};

type Outcome<T, E> = Option<Result<T, Arc<E>>>;
type Running<K, T, E, P> = Arc<Mutex<HashMap<K, Flight<T, E, P>>>>;

/// The operations of one kind that are under way, by key. `P` is shared with all waiters beside the result,
/// for example the progress of a pull.
///
/// An operation continues when all its waiters have gone away, so that a client's deadline leaves nothing
/// half done and the client's retry finds the result.
pub struct SingleFlight<K, T, E, P = ()> {
    running: Running<K, T, E, P>,
}

impl<K, T, E, P> Clone for SingleFlight<K, T, E, P> {
    fn clone(&self) -> Self {
        Self { running: self.running.clone() }
    }
}

impl<K, T, E, P> Default for SingleFlight<K, T, E, P> {
    fn default() -> Self {
        Self { running: Arc::default() }
    }
}

impl<K, T, E, P> fmt::Debug for SingleFlight<K, T, E, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner).len();
        f.debug_struct("SingleFlight").field("running", &running).finish_non_exhaustive()
    }
}

/// A handle of one waiter for an operation under way.
pub struct Flight<T, E, P = ()> {
    outcome: watch::Receiver<Outcome<T, E>>,
    shared: P,
    cancel: Cancel,
}

impl<T, E, P: Clone> Clone for Flight<T, E, P> {
    fn clone(&self) -> Self {
        Self { outcome: self.outcome.clone(), shared: self.shared.clone(), cancel: self.cancel.clone() }
    }
}

impl<K, T, E> SingleFlight<K, T, E>
where
    K: Eq + Hash + Clone + Send + 'static,
    T: Clone + Send + Sync + 'static,
    E: From<Interrupted> + Send + Sync + 'static,
{
    /// Waits for the operation `key` if it is under way; otherwise starts `work` as that operation.
    ///
    /// # Errors
    /// The operation's error; the same for all waiters.
    pub async fn run<F>(&self, key: K, work: impl FnOnce() -> F) -> Result<T, Arc<E>>
    where
        F: Future<Output = Result<T, E>> + Send + 'static,
    {
        self.join_or_start(key, |_| ((), work())).wait().await
    }
}

impl<K, T, E, P> SingleFlight<K, T, E, P>
where
    K: Eq + Hash + Clone + Send + 'static,
    T: Clone + Send + Sync + 'static,
    E: From<Interrupted> + Send + Sync + 'static,
    P: Clone + Send + 'static,
{
    /// Joins the operation `key` if it is under way; otherwise starts the one that `start` returns, in the trace of
    /// this request. `start` gets the token by which [`Flight::cancel`] stops the operation.
    pub fn join_or_start<F>(&self, key: K, start: impl FnOnce(Cancel) -> (P, F)) -> Flight<T, E, P>
    where
        F: Future<Output = Result<T, E>> + Send + 'static,
    {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(flight) = running.get(&key).filter(|flight| !flight.cancel.is_cancelled()) {
            return flight.clone();
        }
        let cancel = Cancel::new();
        let (sender, outcome) = watch::channel(None);
        let (shared, work) = start(cancel.clone());
        let flight = Flight { outcome, shared, cancel: cancel.clone() };
        running.insert(key.clone(), flight.clone());
        let entry = Entry { running: self.running.clone(), key, cancel };
        let work = trace::in_current(work);
        tokio::spawn(async move {
            let result = work.await.map_err(Arc::new);
            // Removed before the result is visible: a client that sees the failure must be able to try again
            // at once.
            drop(entry);
            sender.send_replace(Some(result));
        });
        flight
    }

    /// The shared value of the operation `key`, if it is under way.
    #[must_use]
    pub fn get(&self, key: &K) -> Option<Flight<T, E, P>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).get(key).cloned()
    }

    /// Every operation under way.
    #[must_use]
    pub fn list(&self) -> Vec<(K, Flight<T, E, P>)> {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.iter().map(|(key, flight)| (key.clone(), flight.clone())).collect()
    }
}

/// Runs `work` in a task of its own, so that it continues when its caller goes away. For operations that
/// equal requests do not join.
///
/// # Errors
/// The error of `work`.
pub async fn detached<T, E>(work: impl Future<Output = Result<T, E>> + Send + 'static) -> Result<T, E>
where
    T: Send + 'static,
    E: From<Interrupted> + Send + 'static,
{
    match tokio::spawn(trace::in_current(work)).await {
        Ok(result) => result,
        Err(error) => Err(Interrupted::from_join(error).into()),
    }
}

/// Removes an operation from the list when its task ends, in whatever way.
struct Entry<K: Eq + Hash, T, E, P> {
    running: Running<K, T, E, P>,
    key: K,
    cancel: Cancel,
}

impl<K: Eq + Hash, T, E, P> Drop for Entry<K, T, E, P> {
    fn drop(&mut self) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        // After a cancellation another operation may have taken the key over.
        if running.get(&self.key).is_some_and(|flight| flight.cancel.is_same(&self.cancel)) {
            running.remove(&self.key);
        }
    }
}

impl<T: Clone, E: From<Interrupted>, P> Flight<T, E, P> {
    /// The shared value of all waiters.
    pub fn shared(&self) -> &P {
        &self.shared
    }

    /// Stops the operation; all waiters get its failure.
    pub fn cancel(&self) {
        self.cancel.cancel();
    }

    /// Waits for the operation to end.
    ///
    /// # Errors
    /// The operation's error.
    pub async fn wait(mut self) -> Result<T, Arc<E>> {
        match self.outcome.wait_for(Option::is_some).await {
            Ok(outcome) => outcome.clone().unwrap_or_else(|| Err(Arc::new(Interrupted::ShuttingDown.into()))),
            // The task ended without a result: its runtime is shutting down, or it panicked.
            Err(_) => Err(Arc::new(Interrupted::ShuttingDown.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn equal_requests_are_one_and_a_lost_client_changes_nothing() {
        let flights = SingleFlight::<u8, u32, Interrupted>::default();
        let runs = Arc::new(AtomicU32::new(0));
        let start = || {
            let runs = runs.clone();
            flights.run(1, move || async move {
                tokio::time::sleep(Duration::from_millis(30)).await;
                Ok(runs.fetch_add(1, Ordering::SeqCst))
            })
        };
        // The first client goes away at once; two more come.
        assert!(tokio::time::timeout(Duration::from_millis(1), start()).await.is_err());
        let (a, b) = tokio::join!(start(), start());
        assert_eq!((a.unwrap(), b.unwrap()), (0, 0));
        assert_eq!(start().await.unwrap(), 1, "what has ended is done anew");
    }

    #[tokio::test]
    async fn detached_work_goes_on_when_its_caller_goes_away() {
        let (sender, mut receiver) = watch::channel(false);
        let work = async move {
            tokio::time::sleep(Duration::from_millis(20)).await;
            sender.send_replace(true);
            Ok::<_, Interrupted>(())
        };
        assert!(tokio::time::timeout(Duration::from_millis(1), detached(work)).await.is_err());
        assert!(receiver.wait_for(|done| *done).await.is_ok());
    }

    #[tokio::test]
    async fn a_failure_or_a_panic_can_be_tried_again() {
        let flights = SingleFlight::<u8, (), Interrupted>::default();
        assert!(flights.run(1, || async { Err(Interrupted::Fault) }).await.is_err());
        let panicked = flights.run(1, || async { panic!("expected by this test") }).await.unwrap_err();
        assert_eq!(*panicked, Interrupted::ShuttingDown);
        assert!(flights.run(1, || async { Ok(()) }).await.is_ok());
    }

    #[tokio::test]
    async fn a_cancelled_operation_fails_and_an_equal_request_starts_anew() {
        let flights = SingleFlight::<u8, u8, Interrupted, &'static str>::default();
        let first = flights.join_or_start(1, |cancel| {
            ("first", async move {
                cancel.cancelled().await;
                Err(Interrupted::Cancelled)
            })
        });
        assert_eq!(flights.get(&1).map(|flight| *flight.shared()), Some("first"));
        first.cancel();
        let second = flights.join_or_start(1, |_| ("second", async { Ok(2) }));
        assert_eq!(*second.shared(), "second");
        assert_eq!(*first.wait().await.unwrap_err(), Interrupted::Cancelled);
        assert_eq!(second.wait().await.unwrap(), 2);
        assert!(flights.list().is_empty());
    }
}
