//! Locks for one operation at a time per pod, container or layer; operations on others do not wait.

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::sync::OwnedMutexGuard;

use crate::waits_for;

/// A lock for each key, made at its first use and forgotten when no operation holds it.
pub struct KeyedLocks<K> {
    locks: Mutex<HashMap<K, Weak<Lock>>>,
}

impl<K> Default for KeyedLocks<K> {
    fn default() -> Self {
        Self { locks: Mutex::default() }
    }
}

impl<K> fmt::Debug for KeyedLocks<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyedLocks").finish_non_exhaustive()
    }
}

#[derive(Debug, Default)]
struct Lock {
    mutex: Arc<tokio::sync::Mutex<()>>,
    holder: Mutex<Option<Holder>>,
}

#[derive(Debug, Clone, Copy)]
struct Holder {
    operation: &'static str,
    since: Instant,
}

/// The lock of one key, held until this is dropped.
#[must_use = "the lock is given back when this is dropped"]
#[derive(Debug)]
pub struct KeyedGuard {
    lock: Arc<Lock>,
    _guard: OwnedMutexGuard<()>,
}

impl Drop for KeyedGuard {
    fn drop(&mut self) {
        *self.lock.holder.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// The lock was not free in time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{holder} has been under way for {} ms", since.as_millis())]
pub struct Busy {
    /// The operation that holds the lock.
    pub holder: &'static str,
    pub since: Duration,
}

impl<K: Eq + Hash + Clone> KeyedLocks<K> {
    /// Waits until no other operation holds `key`. `operation` is the name that later waiters see for this
    /// holder.
    pub async fn lock(&self, key: K, operation: &'static str) -> KeyedGuard {
        let lock = self.of(key);
        let _wait = lock.is_taken().then(|| waits_for(|| lock.its_turn()));
        let guard = lock.mutex.clone().lock_owned().await;
        KeyedGuard::new(lock, guard, operation)
    }

    /// Like [`lock`](Self::lock), but waits for `deadline` at most.
    ///
    /// # Errors
    /// [`Busy`].
    pub async fn lock_within(
        &self,
        key: K,
        operation: &'static str,
        deadline: Duration,
    ) -> Result<KeyedGuard, Busy> {
        let lock = self.of(key);
        let _wait = lock.is_taken().then(|| waits_for(|| lock.its_turn()));
        match tokio::time::timeout(deadline, lock.mutex.clone().lock_owned()).await {
            Ok(guard) => Ok(KeyedGuard::new(lock, guard, operation)),
            Err(_) => Err(lock.busy()),
        }
    }

    fn of(&self, key: K) -> Arc<Lock> {
        let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lock) = locks.get(&key).and_then(Weak::upgrade) {
            return lock;
        }
        locks.retain(|_, lock| lock.strong_count() > 0);
        let lock = Arc::new(Lock::default());
        locks.insert(key, Arc::downgrade(&lock));
        lock
    }
}

impl KeyedGuard {
    fn new(lock: Arc<Lock>, guard: OwnedMutexGuard<()>, operation: &'static str) -> Self {
        let holder = Holder { operation, since: Instant::now() };
        *lock.holder.lock().unwrap_or_else(PoisonError::into_inner) = Some(holder);
        Self { lock, _guard: guard }
    }
}

impl Lock {
    fn is_taken(&self) -> bool {
        self.mutex.try_lock().is_err()
    }

    /// The reason that the waiters report.
    fn its_turn(&self) -> String {
        format!("its turn after {}", self.busy().holder)
    }

    fn busy(&self) -> Busy {
        let holder = *self.holder.lock().unwrap_or_else(PoisonError::into_inner);
        match holder {
            Some(Holder { operation, since }) => Busy { holder: operation, since: since.elapsed() },
            None => Busy { holder: "another operation", since: Duration::ZERO },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_holder_per_key_and_the_others_learn_its_name() {
        let locks = KeyedLocks::default();
        let held = locks.lock("a", "start_container").await;
        let busy = locks.lock_within("a", "stop_container", Duration::from_millis(10)).await.unwrap_err();
        assert_eq!(busy.holder, "start_container");
        let other = locks.lock_within("b", "stop_container", Duration::from_millis(10)).await;
        assert!(other.is_ok(), "another key waits for nothing");
        drop(held);
        assert!(locks.lock_within("a", "stop_container", Duration::from_millis(10)).await.is_ok());
    }

    #[tokio::test]
    async fn locks_that_nothing_holds_are_forgotten() {
        let locks = KeyedLocks::default();
        for key in 0..100 {
            drop(locks.lock(key, "test").await);
        }
        assert!(locks.locks.lock().unwrap().len() <= 1);
    }
}
