//! The execs of a connection: whose end is awaited.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crisp_monitor::wire::ExitStatus;
use tokio::sync::watch;

#[derive(Default)]
pub(super) struct Execs(Mutex<HashMap<u64, watch::Sender<Option<ExitStatus>>>>);

impl Execs {
    fn lock(&self) -> MutexGuard<'_, HashMap<u64, watch::Sender<Option<ExitStatus>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// False when there is one of that id already.
    pub(super) fn add(&self, exec: u64) -> bool {
        let mut execs = self.lock();
        if execs.contains_key(&exec) {
            return false;
        }
        execs.insert(exec, watch::Sender::new(None));
        true
    }

    pub(super) fn remove(&self, exec: u64) {
        self.lock().remove(&exec);
    }

    /// Its end arrived.
    pub(super) fn ended(&self, exec: u64, status: ExitStatus) {
        if let Some(waiters) = self.lock().get(&exec) {
            waiters.send_replace(Some(status));
        }
    }

    /// Receives the end; the channel closes when the connection is over first.
    pub(super) fn subscribe(&self, exec: u64) -> Option<watch::Receiver<Option<ExitStatus>>> {
        self.lock().get(&exec).map(watch::Sender::subscribe)
    }

    /// The connection is over.
    pub(super) fn clear(&self) {
        self.lock().clear();
    }
}
