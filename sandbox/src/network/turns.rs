use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use crisp_executor::id::PodId;
use tokio::sync::OwnedMutexGuard;

type Turn = tokio::sync::Mutex<()>;

/// One operation at a time per pod; other pods are not kept waiting.
#[derive(Debug, Default)]
pub(super) struct Turns(Mutex<HashMap<PodId, Weak<Turn>>>);

impl Turns {
    /// Waits until no other operation on the pod is under way.
    pub(super) async fn take(&self, pod: &PodId) -> OwnedMutexGuard<()> {
        let turn = self.of(pod);
        turn.lock_owned().await
    }

    fn of(&self, pod: &PodId) -> Arc<Turn> {
        let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(turn) = turns.get(pod).and_then(Weak::upgrade) {
            return turn;
        }
        turns.retain(|_, turn| turn.strong_count() > 0);
        let turn = Arc::new(Turn::default());
        turns.insert(pod.clone(), Arc::downgrade(&turn));
        turn
    }
}
