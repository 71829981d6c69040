//! The status of a container.
//!
//! ```text
//!  create --> Creating --waits at its gate--> Created --start--> Running <--pause, resume--> Paused
//!                |                              |                  |                          |
//!                +------------------------------+------------------+---- its process ends ----+--> Stopped
//! ```

use std::fmt;

use crisp_executor::cgroup::{CgroupError, Cgroups};
use rustix::fd::OwnedFd;

use super::id::OciId;
use super::record::Record;
use super::state_folder::StateFolder;

/// The names of the runtime spec, and runc's `paused`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Its create is under way, or was killed.
    Creating,
    Created,
    Running,
    Paused,
    Stopped,
}

impl Status {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The present status of a container. `init` is its first process while it lives.
#[derive(Debug)]
pub struct Now {
    pub status: Status,
    pub init: Option<OwnedFd>,
}

/// Determines the status. `record` is None when the container has none yet.
///
/// # Errors
/// The freezer cannot be read.
pub fn now(folder: &StateFolder, record: Option<&Record>) -> anyhow::Result<Now> {
    let Some((record, init)) = record.and_then(|record| Some((record, record.init?))) else {
        return Ok(Now { status: Status::Creating, init: None });
    };
    let Some(init) = init.open() else { return Ok(Now { status: Status::Stopped, init: None }) };
    if record.creating {
        return Ok(Now { status: Status::Creating, init: Some(init) });
    }
    let status = match (is_paused(record)?, folder.has_gate()) {
        (true, _) => Status::Paused,
        (false, true) => Status::Created,
        (false, false) => Status::Running,
    };
    Ok(Now { status, init: Some(init) })
}

fn is_paused(record: &Record) -> anyhow::Result<bool> {
    let frozen = Cgroups::detect().and_then(|cgroups| cgroups.open(&record.cgroup)?.is_frozen());
    match frozen {
        // Without the freezer nothing can be paused.
        Err(CgroupError::NotFound { .. } | CgroupError::NoController { .. }) => Ok(false),
        frozen => Ok(frozen?),
    }
}

/// The first process of a container that is created or running.
///
/// # Errors
/// The container has another status, in which `what` is not possible.
pub fn live(folder: &StateFolder, record: &Record, id: &OciId, what: &str) -> anyhow::Result<OwnedFd> {
    match now(folder, Some(record))? {
        Now { status: Status::Created | Status::Running, init: Some(init) } => Ok(init),
        Now { status: Status::Stopped, .. } => {
            anyhow::bail!("cannot {what} container {id}: container not running")
        }
        Now { status: Status::Paused, .. } => {
            anyhow::bail!("cannot {what} container {id}: it is paused; first: crisp oci resume {id}")
        }
        Now { status, .. } => anyhow::bail!("cannot {what} container {id}: it is {status}"),
    }
}
