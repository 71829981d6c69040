//! Equal requests are one operation: the first starts it, others that come meanwhile get its result.
//! It goes on when all who wait for it have gone away, so that a client's deadline leaves nothing
//! half done and the client's retry finds the result.

use std::collections::HashMap;
use std::future::Future;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use crate::error::RuntimeError;

type Outcome<T> = Result<T, Arc<RuntimeError>>;
type Running<K, T> = Arc<Mutex<HashMap<K, watch::Receiver<Option<Outcome<T>>>>>>;

/// The operations of one kind that are under way.
#[derive(Debug)]
pub struct Joint<K, T> {
    operation: &'static str,
    running: Running<K, T>,
}

impl<K, T> Joint<K, T>
where
    K: Eq + Hash + Clone + Send + 'static,
    T: Clone + Send + Sync + 'static,
{
    #[must_use]
    pub fn new(operation: &'static str) -> Self {
        Self { operation, running: Arc::default() }
    }

    /// Waits for the operation `key` that is under way; without one, `work` becomes it.
    ///
    /// # Errors
    /// The operation's own; the same for all who waited.
    pub async fn run<F>(&self, key: K, work: impl FnOnce() -> F) -> Result<T, RuntimeError>
    where
        F: Future<Output = Result<T, RuntimeError>> + Send + 'static,
    {
        let mut outcome = self.join_or_start(key, work);
        // A sender that vanished without a word was dropped with the whole runtime.
        let outcome = match outcome.wait_for(Option::is_some).await {
            Ok(outcome) => outcome.clone(),
            Err(_) => None,
        };
        match outcome {
            Some(Ok(value)) => Ok(value),
            Some(Err(error)) => Err(RuntimeError::Shared(error)),
            None => Err(RuntimeError::Aborted { operation: self.operation }),
        }
    }

    fn join_or_start<F>(&self, key: K, work: impl FnOnce() -> F) -> watch::Receiver<Option<Outcome<T>>>
    where
        F: Future<Output = Result<T, RuntimeError>> + Send + 'static,
    {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(outcome) = running.get(&key) {
            return outcome.clone();
        }
        let (sender, outcome) = watch::channel(None);
        running.insert(key.clone(), outcome.clone());
        let forget = Forget { running: self.running.clone(), key };
        let work = work();
        tokio::spawn(async move {
            let result = work.await.map_err(Arc::new);
            // Forgotten first: whoever saw a failure must be able to try again at once.
            drop(forget);
            sender.send_replace(Some(result));
        });
        outcome
    }
}

/// Takes the operation off the list however its task ends.
struct Forget<K: Eq + Hash, T> {
    running: Running<K, T>,
    key: K,
}

impl<K: Eq + Hash, T> Drop for Forget<K, T> {
    fn drop(&mut self) {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn equal_requests_are_one_and_a_lost_client_changes_nothing() {
        let joint = Arc::new(Joint::<u8, u32>::new("test"));
        let runs = Arc::new(AtomicU32::new(0));
        let start = || {
            let runs = runs.clone();
            joint.run(1, move || async move {
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
    async fn a_failure_can_be_tried_again() {
        let joint = Joint::<u8, ()>::new("test");
        let failed = joint.run(1, || async { Err(RuntimeError::Aborted { operation: "x" }) }).await;
        assert!(failed.is_err());
        assert!(joint.run(1, || async { Ok(()) }).await.is_ok());
    }
}
