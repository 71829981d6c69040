//! What changes about a container.

use crisp_operation::record::Record;
use serde::{Deserialize, Serialize};

use super::config::Resources;
use super::state::{Refusal, State};

/// All that changes about a container. Its record is `status.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    pub state: State,
    /// The limits in force; UpdateContainerResources replaces those of the request.
    pub resources: Resources,
}

impl Record for Status {
    const KIND: &'static str = "container status";
}

impl Status {
    /// The status of a container that has just been created.
    #[must_use]
    pub fn created(resources: Resources) -> Self {
        Self { state: State::Created, resources }
    }

    /// This status with the state that `change` makes of its own.
    ///
    /// # Errors
    /// `change`'s.
    pub fn with_state(&self, change: impl FnOnce(&State) -> Result<State, Refusal>) -> Result<Self, Refusal> {
        Ok(Self { state: change(&self.state)?, resources: self.resources.clone() })
    }
}
