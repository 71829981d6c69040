//! Connections that have shown no token yet. When there are too many the oldest has to go: the client of a
//! session sends its request at once, so that those who say nothing keep it from nothing.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crisp_operation::Cancel;

pub(super) struct PendingConnections {
    most: usize,
    /// The oldest first.
    waiting: Mutex<VecDeque<Cancel>>,
}

/// The slot of one of them, until it is dropped or has shown a token.
pub(super) struct PendingConnection {
    pending: Arc<PendingConnections>,
    evicted: Cancel,
}

impl PendingConnections {
    pub(super) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, waiting: Mutex::default() })
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Cancel>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Evicts the oldest if all slots are taken.
    pub(super) fn enter(self: &Arc<Self>) -> PendingConnection {
        let mut waiting = self.lock();
        if waiting.len() >= self.most
            && let Some(oldest) = waiting.pop_front()
        {
            oldest.cancel();
        }
        let evicted = Cancel::new();
        waiting.push_back(evicted.clone());
        PendingConnection { pending: self.clone(), evicted }
    }
}

impl PendingConnection {
    /// Returns when it has to go.
    pub(super) async fn evicted(&self) {
        self.evicted.cancelled().await;
    }

    /// It has shown a token: it cannot be evicted any more. False: it was already.
    pub(super) fn leave(&self) -> bool {
        let mut waiting = self.pending.lock();
        let at = waiting.iter().position(|connection| connection.is_same(&self.evicted));
        at.and_then(|at| waiting.remove(at)).is_some()
    }
}

impl Drop for PendingConnection {
    fn drop(&mut self) {
        self.leave();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_goes_and_those_with_a_token_stay() {
        let pending = PendingConnections::new(2);
        let [known, oldest] = [pending.enter(), pending.enter()];
        assert!(known.leave());
        let left = pending.enter();
        drop(left);
        let (_newer, _newest) = (pending.enter(), pending.enter());
        assert!(!known.evicted.is_cancelled());
        assert!(oldest.evicted.is_cancelled());
        assert!(!oldest.leave());
        assert_eq!(pending.lock().len(), 2);
    }
}
