//! Pulls that need the same layer: one fetches it, the others wait as long as it makes progress.
//!
//! The layer's diff id is only a claim of the image's configuration until the content has been verified. So
//! no pull may depend on another one's endpoints: a very slow registry must not block every image with this
//! layer. A pull that has waited too long fetches the layer itself, and the first one that has it ends the
//! others' fetches.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedMutexGuard, watch};

use crate::digest::DiffId;
use crate::mirror::DownloadEvent;

/// A fetch is not waited for if its present speed would take longer than this many times the patience.
const MAX_ESTIMATE: u32 = 12;
/// No fetch is waited for longer than this many times the patience.
const MAX_WAIT: u32 = 60;

/// All layers that running pulls need.
#[derive(Default)]
pub(super) struct LayerShares(Mutex<HashMap<DiffId, Weak<LayerShare>>>);

/// One layer that running pulls need.
pub(super) struct LayerShare {
    turn: Arc<tokio::sync::Mutex<()>>,
    /// Bytes received by the pull that has the turn.
    received: AtomicU64,
    size: AtomicU64,
    waits_for_disk: AtomicBool,
    stored: watch::Sender<bool>,
}

/// The permission to fetch a layer.
pub(super) enum FetchPermit {
    /// Others wait for this fetch.
    Holder(#[allow(dead_code, reason = "held until dropped")] OwnedMutexGuard<()>),
    /// Another pull fetches it too slowly; this one fetches it as well.
    Beside,
}

impl LayerShares {
    pub(super) fn share(&self, diff: &DiffId) -> Arc<LayerShare> {
        let mut shares = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(share) = shares.get(diff).and_then(Weak::upgrade) {
            return share;
        }
        shares.retain(|_, share| share.strong_count() > 0);
        let share = Arc::new(LayerShare {
            turn: Arc::default(),
            received: AtomicU64::new(0),
            size: AtomicU64::new(0),
            waits_for_disk: AtomicBool::new(false),
            stored: watch::Sender::new(false),
        });
        shares.insert(diff.clone(), Arc::downgrade(&share));
        share
    }
}

impl FetchPermit {
    /// Records the progress of the fetch.
    pub(super) fn report(&self, share: &LayerShare, event: DownloadEvent, size: u64) {
        match (self, event) {
            (Self::Beside, _) => {}
            (Self::Holder(_), DownloadEvent::Received(received)) => {
                share.size.store(size, Ordering::Relaxed);
                share.received.store(received, Ordering::Relaxed);
            }
            (Self::Holder(_), DownloadEvent::WaitsForReader(waits)) => {
                share.waits_for_disk.store(waits, Ordering::Relaxed);
            }
        }
    }
}

impl LayerShare {
    /// Waits until this pull may fetch the layer: because no other pull does, or because the other one is too
    /// slow. `patience` is the time limit for another fetch without any progress.
    pub(super) async fn permit(&self, patience: Duration) -> FetchPermit {
        let since = Instant::now();
        let mut turn = std::pin::pin!(self.turn.clone().lock_owned());
        let mut stored = self.stored.subscribe();
        loop {
            let before = self.received.load(Ordering::Relaxed);
            tokio::select! {
                biased;
                turn = &mut turn => return FetchPermit::Holder(turn),
                _ = stored.wait_for(|stored| *stored) => return FetchPermit::Beside,
                () = tokio::time::sleep(patience) => {}
            }
            if self.is_slow(before, patience) || since.elapsed() > patience.saturating_mul(MAX_WAIT) {
                return FetchPermit::Beside;
            }
        }
    }

    /// Whether the fetch under way is too slow to wait for: `before` bytes were received `patience` ago.
    fn is_slow(&self, before: u64, patience: Duration) -> bool {
        let received = self.received.load(Ordering::Relaxed);
        let left = self.size.load(Ordering::Relaxed).saturating_sub(received);
        if self.waits_for_disk.load(Ordering::Relaxed) || (left == 0 && received > 0) {
            return false;
        }
        // Fewer bytes than before mean that the fetch has started again.
        let gained = received.saturating_sub(before);
        let estimate = patience.as_secs_f64() * left as f64 / gained.max(1) as f64;
        gained == 0 || estimate > (patience * MAX_ESTIMATE).as_secs_f64()
    }

    /// Records that the layer is in the store.
    pub(super) fn set_stored(&self) {
        self.stored.send_replace(true);
    }

    /// Returns once a pull has put the layer into the store.
    pub(super) async fn stored(&self) {
        // Cannot fail: the sender is in this structure.
        let _ = self.stored.subscribe().wait_for(|stored| *stored).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;

    const PATIENCE: Duration = Duration::from_millis(20);

    fn diff(name: &[u8]) -> DiffId {
        DiffId::from(Digest::sha256(name))
    }

    async fn holder(share: &LayerShare) -> FetchPermit {
        let turn = share.permit(PATIENCE).await;
        assert!(matches!(turn, FetchPermit::Holder(_)));
        turn
    }

    #[tokio::test]
    async fn one_pull_fetches_a_layer_and_the_next_waits_while_it_gets_on() {
        let shares = LayerShares::default();
        let (share, same, other) =
            (shares.share(&diff(b"a")), shares.share(&diff(b"a")), shares.share(&diff(b"b")));
        assert!(Arc::ptr_eq(&share, &same));
        let first = holder(&share).await;
        holder(&other).await;
        let (mut waiter, mut received) = (std::pin::pin!(same.permit(PATIENCE)), 0);
        for _ in 0..10 {
            received += 1000;
            first.report(&share, DownloadEvent::Received(received), 10_000);
            assert!(tokio::time::timeout(PATIENCE / 2, &mut waiter).await.is_err(), "{received}");
        }
        drop(first);
        assert!(matches!(waiter.await, FetchPermit::Holder(_)));
    }

    #[tokio::test]
    async fn a_fetch_that_does_not_get_on_is_not_waited_for() {
        let shares = LayerShares::default();
        let share = shares.share(&diff(b"a"));
        let first = holder(&share).await;
        assert!(matches!(share.permit(PATIENCE).await, FetchPermit::Beside), "nothing received");
        first.report(&share, DownloadEvent::Received(1), 1 << 20);
        let drip = async {
            for received in 2.. {
                tokio::time::sleep(PATIENCE / 4).await;
                first.report(&share, DownloadEvent::Received(received), 1 << 20);
            }
        };
        tokio::select! {
            turn = share.permit(PATIENCE) => assert!(matches!(turn, FetchPermit::Beside)),
            () = drip => {}
        }
    }

    #[tokio::test]
    async fn a_fetch_that_waits_for_the_disk_is_waited_for() {
        let shares = LayerShares::default();
        let share = shares.share(&diff(b"a"));
        let first = holder(&share).await;
        first.report(&share, DownloadEvent::Received(10), 1 << 20);
        first.report(&share, DownloadEvent::WaitsForReader(true), 1 << 20);
        assert!(tokio::time::timeout(PATIENCE * 5, share.permit(PATIENCE)).await.is_err());
    }

    #[tokio::test]
    async fn the_first_that_has_the_layer_ends_the_others() {
        let shares = LayerShares::default();
        let share = shares.share(&diff(b"a"));
        let _first = holder(&share).await;
        let waiting = share.permit(Duration::from_secs(60));
        share.set_stored();
        assert!(matches!(waiting.await, FetchPermit::Beside));
        share.stored().await;
    }

    #[test]
    fn shares_that_no_pull_needs_are_forgotten() {
        let shares = LayerShares::default();
        for n in 0..100u8 {
            drop(shares.share(&diff(&[n])));
        }
        assert!(shares.0.lock().unwrap().len() <= 1);
    }
}
