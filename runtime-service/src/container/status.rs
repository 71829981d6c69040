//! The part of a container that changes.

use crisp_operation::record::Record;
use serde::{Deserialize, Serialize};

use super::config::Resources;
use super::state::{Refusal, State};

/// The changing part of a container. Its record is `status.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    pub state: State,
    /// The limits in force; UpdateContainerResources replaces those of the request.
    pub resources: Resources,
    /// All its processes are paused; only for a running container.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub paused: bool,
    /// It is paused, or being paused, for a commit; only for a running container. If the commit's server has
    /// ended, the next one unpauses it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub committing: bool,
}

impl Record for Status {
    const KIND: &'static str = "container status";
}

impl Status {
    /// The status of a container that has just been created.
    #[must_use]
    pub fn created(resources: Resources) -> Self {
        Self { state: State::Created, resources, paused: false, committing: false }
    }

    /// The status that is written to disk for a container that is being removed.
    #[must_use]
    pub fn before_removal(&self) -> Option<Self> {
        let State::Removing { exit } = &self.state else { return None };
        let state = exit.clone().map_or(State::Created, State::Exited);
        Some(Self { state, ..self.clone() })
    }

    /// This status with the state that `change` returns.
    ///
    /// # Errors
    /// The refusal by `change`.
    pub fn with_state(&self, change: impl FnOnce(&State) -> Result<State, Refusal>) -> Result<Self, Refusal> {
        let state = change(&self.state)?;
        let (paused, committing) = (self.paused && state.may_run(), self.committing && state.may_run());
        Ok(Self { state, resources: self.resources.clone(), paused, committing })
    }
}
