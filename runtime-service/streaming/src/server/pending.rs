//! Connections that have shown no token yet. When there are too many, the oldest is closed: the client of a
//! session sends its request at once, so silent connections cannot keep it from being served.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crisp_operation::Cancel;

pub(super) struct PendingConnections {
    most: usize,
    /// The connections, the oldest first.
    waiting: Mutex<VecDeque<Cancel>>,
}

/// The slot of one connection, until it is dropped or the connection has shown a token.
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

    /// Adds a connection, and evicts the oldest if all slots are taken.
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
    /// Returns when the connection is evicted.
    pub(super) async fn evicted(&self) {
        self.evicted.cancelled().await;
    }

    /// Notes that the connection has shown a token, so that it cannot be evicted any more. Returns false when
    /// it was evicted before.
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
