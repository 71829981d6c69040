//! Equal pulls are one pull. It runs in a task of its own: a client that goes away does not end it, and the
//! client's retry joins it instead of starting from nothing.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use super::error::{PullCause, PullError, PullStage};
use super::progress::{Board, PullProgress};
use crate::digest::ImageId;
use crate::reference::Reference;

/// Pulls are equal when they want the same and prove to be the same user: a pull must not succeed with
/// somebody else's credentials.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct FlightKey {
    pub(crate) reference: Reference,
    pub(crate) fingerprint: String,
}

type Outcome = Option<Result<ImageId, PullError>>;

/// A pull under way, as those who wait for it see it.
#[derive(Clone)]
pub(crate) struct Flight {
    outcome: watch::Receiver<Outcome>,
    progress: watch::Receiver<PullProgress>,
    reference: String,
}

/// All pulls under way.
#[derive(Clone, Default)]
pub(crate) struct Flights(Arc<Mutex<HashMap<FlightKey, Flight>>>);

impl Flights {
    /// Joins the equal pull under way, or starts `pull`.
    pub(crate) fn join_or_start<F>(&self, key: FlightKey, pull: impl FnOnce(Board) -> F) -> Flight
    where
        F: Future<Output = Result<ImageId, PullError>> + Send + 'static,
    {
        let mut flights = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(flight) = flights.get(&key) {
            return flight.clone();
        }
        let reference = key.reference.to_string();
        let board = Board::new(reference.clone());
        let (sender, outcome) = watch::channel(None);
        let flight = Flight { outcome, progress: board.subscribe(), reference };
        flights.insert(key.clone(), flight.clone());
        let running = pull(board);
        let landing = Landing { flights: self.clone(), key };
        tokio::spawn(async move {
            let result = running.await;
            // Away before it is known: whoever hears of the failure and retries starts anew.
            drop(landing);
            sender.send_replace(Some(result));
        });
        flight
    }
}

/// Takes a pull off the list when it ends, in whatever way.
struct Landing {
    flights: Flights,
    key: FlightKey,
}

impl Drop for Landing {
    fn drop(&mut self) {
        self.flights.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}

impl Flight {
    /// Waits for the end, passing progress on.
    pub(crate) async fn wait(
        mut self,
        progress: Option<&watch::Sender<PullProgress>>,
    ) -> Result<ImageId, PullError> {
        loop {
            let outcome = self.outcome.borrow_and_update().clone();
            if let Some(result) = outcome {
                self.pass_on(progress);
                return result;
            }
            tokio::select! {
                changed = self.outcome.changed() => {
                    // Gone without a word; unless the word is there already.
                    if changed.is_err() && self.outcome.borrow().is_none() {
                        let (reference, stage) = (self.reference, PullStage::Request);
                        return Err(PullError { reference, stage, cause: PullCause::Lost });
                    }
                }
                changed = self.progress.changed(), if progress.is_some() => match changed {
                    Ok(()) => self.pass_on(progress),
                    Err(_) => {
                        // The pull has ended; its outcome follows.
                        let _ = self.outcome.changed().await;
                    }
                },
            }
        }
    }

    fn pass_on(&mut self, progress: Option<&watch::Sender<PullProgress>>) {
        if let Some(progress) = progress {
            progress.send_replace(self.progress.borrow_and_update().clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Duration;

    fn key(user: &str) -> FlightKey {
        FlightKey { reference: Reference::parse("r.io/app").unwrap(), fingerprint: user.to_owned() }
    }

    #[tokio::test]
    async fn equal_pulls_are_one_and_outlive_their_client() {
        let (flights, started) = (Flights::default(), Arc::new(AtomicU32::new(0)));
        let start = |user: &str| {
            let started = started.clone();
            flights.join_or_start(key(user), |_| async move {
                started.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(50)).await;
                Ok(ImageId::from(Digest::sha256(b"image")))
            })
        };
        let gone = start("ann");
        assert!(tokio::time::timeout(Duration::from_millis(5), gone.wait(None)).await.is_err());
        let (joined, other) = (start("ann"), start("bob"));
        assert_eq!(joined.wait(None).await.unwrap(), ImageId::from(Digest::sha256(b"image")));
        other.wait(None).await.unwrap();
        assert_eq!(started.load(Ordering::Relaxed), 2);
        assert!(flights.0.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_pull_that_panics_is_an_error_and_can_be_tried_again() {
        let flights = Flights::default();
        let flight = flights.join_or_start(key("ann"), |_| async { panic!("expected by this test") });
        let error = flight.wait(None).await.unwrap_err();
        assert!(matches!(error.cause, PullCause::Lost));
        assert!(flights.0.lock().unwrap().is_empty());
    }
}
