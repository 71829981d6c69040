//! Connections that have shown no token yet. When there are too many the oldest has to go: the client of a
//! session sends its request at once, so that those who say nothing keep it from nothing.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crisp_operation::Cancel;

pub(super) struct Strangers {
    most: usize,
    /// The oldest first.
    waiting: Mutex<VecDeque<Cancel>>,
}

/// The place of one of them, until it is dropped or has shown a token.
pub(super) struct Stranger {
    strangers: Arc<Strangers>,
    sent_away: Cancel,
}

impl Strangers {
    pub(super) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, waiting: Mutex::default() })
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Cancel>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends the oldest away if there is no place left.
    pub(super) fn enter(self: &Arc<Self>) -> Stranger {
        let mut waiting = self.lock();
        if waiting.len() >= self.most
            && let Some(oldest) = waiting.pop_front()
        {
            oldest.cancel();
        }
        let sent_away = Cancel::new();
        waiting.push_back(sent_away.clone());
        Stranger { strangers: self.clone(), sent_away }
    }
}

impl Stranger {
    /// Returns when it has to go.
    pub(super) async fn sent_away(&self) {
        self.sent_away.cancelled().await;
    }

    /// It has shown a token: it cannot be sent away any more. False: it was already.
    pub(super) fn leave(&self) -> bool {
        let mut waiting = self.strangers.lock();
        let at = waiting.iter().position(|stranger| stranger.is_same(&self.sent_away));
        at.and_then(|at| waiting.remove(at)).is_some()
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        self.leave();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_goes_and_those_with_a_token_stay() {
        let strangers = Strangers::new(2);
        let [known, oldest] = [strangers.enter(), strangers.enter()];
        assert!(known.leave());
        let left = strangers.enter();
        drop(left);
        let (_newer, _newest) = (strangers.enter(), strangers.enter());
        assert!(!known.sent_away.is_cancelled());
        assert!(oldest.sent_away.is_cancelled());
        assert!(!oldest.leave());
        assert_eq!(strangers.lock().len(), 2);
    }
}
