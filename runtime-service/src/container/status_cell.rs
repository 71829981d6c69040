//! The one status_cell through which a container's status changes.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::config::Resources;
use super::record::{self, RecordError};
use super::state::{Refusal, State};

/// All that changes about a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    pub state: State,
    pub resources: Resources,
}

/// Why a status stays as it is.
#[derive(Debug, thiserror::Error)]
pub enum StatusError {
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error(transparent)]
    Record(#[from] RecordError),
}

/// Holds a [`Status`]. A change is on disk before anyone can see it; readers never wait for the disk.
#[derive(Debug)]
pub struct StatusCell {
    record: PathBuf,
    writing: Mutex<()>,
    visible: watch::Sender<Arc<Status>>,
}

impl StatusCell {
    /// A status_cell to a status that is on disk already.
    #[must_use]
    pub fn at(record: PathBuf, status: Status) -> Self {
        Self { record, writing: Mutex::new(()), visible: watch::Sender::new(Arc::new(status)) }
    }

    /// Writes the first record.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn create(record: PathBuf, status: Status) -> Result<Self, RecordError> {
        record::write(&record, &status)?;
        Ok(Self::at(record, status))
    }

    /// The status now.
    #[must_use]
    pub fn get(&self) -> Arc<Status> {
        self.visible.borrow().clone()
    }

    /// A receiver that sees every status from now on (not necessarily each one in between).
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Arc<Status>> {
        self.visible.subscribe()
    }

    /// Replaces the state by what `change` makes of it. Returns the state before and after.
    ///
    /// # Errors
    /// `change`'s refusal, or the disk's; nothing has changed then.
    pub fn update(
        &self,
        change: impl FnOnce(&State) -> Result<State, Refusal>,
    ) -> Result<(State, State), StatusError> {
        let _one_at_a_time = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.get();
        let state = change(&before.state)?;
        if state != before.state {
            self.publish(Status { state: state.clone(), resources: before.resources.clone() })?;
        }
        Ok((before.state.clone(), state))
    }

    /// Replaces the limits.
    ///
    /// # Errors
    /// When the disk refuses; nothing has changed then.
    pub fn update_resources(&self, resources: Resources) -> Result<(), RecordError> {
        let _one_at_a_time = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let state = self.get().state.clone();
        self.publish(Status { state, resources })
    }

    fn publish(&self, status: Status) -> Result<(), RecordError> {
        record::write(&self.record, &status)?;
        self.visible.send_replace(Arc::new(status));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_that_the_disk_refuses_is_never_seen() {
        let dir = tempfile::tempdir().unwrap();
        let record = dir.path().join("gone").join("status.json");
        let status_cell =
            StatusCell::at(record, Status { state: State::Created, resources: Resources::default() });
        assert!(matches!(status_cell.update(State::starting), Err(StatusError::Record(_))));
        assert_eq!(status_cell.get().state, State::Created);
    }

    #[test]
    fn what_is_seen_is_on_disk() {
        let dir = tempfile::tempdir().unwrap();
        let record = dir.path().join("status.json");
        let status = Status { state: State::Created, resources: Resources::default() };
        let status_cell = StatusCell::create(record.clone(), status).unwrap();
        status_cell.update(State::starting).unwrap();
        assert_eq!(record::read::<Status>(&record).unwrap(), *status_cell.get());
        assert!(matches!(status_cell.update(State::starting), Err(StatusError::Refused(_))));
    }
}
