//! The execs of a connection, and the tasks that wait for their ends.

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

    /// Adds an exec. Returns false when the id is in use.
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

    /// Records the end of an exec.
    pub(super) fn ended(&self, exec: u64, status: ExitStatus) {
        if let Some(waiters) = self.lock().get(&exec) {
            waiters.send_replace(Some(status));
        }
    }

    /// Receives the end; the channel closes if the connection ends first.
    pub(super) fn subscribe(&self, exec: u64) -> Option<watch::Receiver<Option<ExitStatus>>> {
        self.lock().get(&exec).map(watch::Sender::subscribe)
    }

    /// Handles the end of the connection.
    pub(super) fn clear(&self) {
        self.lock().clear();
    }
}
