//! Checks all layers periodically and slowly, to find lost data before a container needs it.

use std::sync::{Arc, Weak};
use std::time::Duration;

use crisp_operation::clock;
use crisp_operation::record::{self, Durability, Record};
use serde::{Deserialize, Serialize};

use super::check::Condition;
use super::{Inner, Store};
use crate::tree::ReadRate;

/// Bytes per second: a fifth of a slow disk's speed.
const BYTES_PER_SECOND: u64 = 20 << 20;
/// Delay after the start of the server, when it has more important work.
const AFTER_START: Duration = Duration::from_secs(600);

/// The time of the last complete check.
#[derive(Debug, Serialize, Deserialize)]
struct LastCheck {
    /// Nanoseconds since 1970.
    ended: i64,
}

impl Record for LastCheck {
    const KIND: &'static str = "record of the last check";
}

impl Store {
    /// Checks all layers every `interval` from now on, also across restarts, until the store is closed.
    /// `count` is called for each layer.
    pub(crate) fn check_periodically(
        &self,
        interval: Duration,
        count: impl Fn(&Condition) + Send + Sync + 'static,
    ) {
        let (store, count) = (Arc::downgrade(&self.inner), Arc::new(count));
        let first = self.inner.until_next(interval).max(AFTER_START.min(interval));
        tokio::spawn(async move {
            let mut pause = first;
            loop {
                tokio::time::sleep(pause).await;
                let (store, count) = (store.clone(), count.clone());
                let check = tokio::task::spawn_blocking(move || check_all(&store, &*count));
                if !check.await.unwrap_or(false) {
                    return;
                }
                pause = interval;
            }
        });
    }
}

/// Returns false when the store is closed.
fn check_all(store: &Weak<Inner>, count: &dyn Fn(&Condition)) -> bool {
    let opened = || store.upgrade().map(|inner| Store { inner });
    let Some(layers) = opened().map(|store| store.layers()) else { return false };
    let mut rate = ReadRate::limited(BYTES_PER_SECOND);
    let (mut checked, mut damaged) = (0, 0);
    for (diff, _) in layers {
        let Some(store) = opened() else { return false };
        match store.verify_at(&diff, &mut rate) {
            Ok(condition) => {
                checked += 1;
                damaged += usize::from(matches!(condition, Condition::Damaged(_)));
                count(&condition);
            }
            // Removed meanwhile, or not readable now.
            Err(error) => tracing::info!(layer = %diff, %error, "a layer was not checked"),
        }
    }
    tracing::info!(checked, damaged, "checked all image layers");
    let Some(store) = opened() else { return false };
    let ended = LastCheck { ended: clock::now() };
    if let Err(error) = record::write(&store.inner.layout.last_check(), &ended, Durability::Process) {
        tracing::warn!(%error, "the next start of the server checks the layers again");
    }
    true
}

impl Inner {
    /// The time until the next check.
    fn until_next(&self, interval: Duration) -> Duration {
        let Ok(last) = record::read::<LastCheck>(&self.layout.last_check()) else { return Duration::ZERO };
        let since = u64::try_from(clock::now().saturating_sub(last.ended)).unwrap_or_default();
        interval.saturating_sub(Duration::from_nanos(since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn layers_are_checked_again_and_again_and_the_date_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let archive = tar::Builder::new(Vec::new()).into_inner().unwrap();
        let diff = crate::digest::DiffId::from(crate::digest::Digest::sha256(&archive));
        store.ingest_layer(&diff, &archive[..]).unwrap();
        assert_eq!(store.inner.until_next(Duration::from_secs(60)), Duration::ZERO);
        let (found, mut conditions) = tokio::sync::mpsc::unbounded_channel();
        let interval = Duration::from_millis(10);
        store.check_periodically(interval, move |condition| drop(found.send(condition.clone())));
        assert_eq!(conditions.recv().await, Some(Condition::Sound));
        std::fs::write(folder.path().join("layers").join(diff.hex()).join("fs/added"), "").unwrap();
        while conditions.recv().await == Some(Condition::Sound) {}
        assert!(!store.has_layer(&diff));
        let next = store.inner.until_next(Duration::from_secs(60));
        assert!(next > Duration::from_secs(30), "a restart does not begin at once: {next:?}");
        drop(store);
        // The task ends with the store, and leaves it to the next server.
        while conditions.recv().await.is_some() {}
        while Store::open(folder.path()).is_err() {
            tokio::time::sleep(interval).await;
        }
    }
}
