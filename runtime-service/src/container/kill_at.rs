//! The deadline of a stop, which later stops can bring nearer.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

/// Longer than any container lives; a deadline must fit into the clock's range.
const LONGEST_GRACE: Duration = Duration::from_secs(365 * 24 * 3600);

/// The time at which a container that is being stopped is killed.
#[derive(Debug, Clone)]
pub struct KillAt(Arc<watch::Sender<Instant>>);

impl KillAt {
    pub(crate) fn after(grace: Duration) -> Self {
        Self(Arc::new(watch::Sender::new(Instant::now() + grace.min(LONGEST_GRACE))))
    }

    pub(crate) fn no_later_than(&self, other: &Self) {
        let nearest = *other.0.borrow();
        self.0.send_if_modified(|at| {
            let nearer = nearest < *at;
            *at = nearest.min(*at);
            nearer
        });
    }

    pub(crate) fn is_over(&self) -> bool {
        *self.0.borrow() <= Instant::now()
    }

    pub(crate) async fn reached(&self) {
        let mut at = self.0.subscribe();
        loop {
            let now = *at.borrow_and_update();
            tokio::select! {
                () = tokio::time::sleep_until(now) => return,
                // Cannot fail: this value holds the sender.
                _ = at.changed() => {}
            }
        }
    }
}
