//! The reasons why a request to a monitor failed.

use std::path::PathBuf;
use std::time::Duration;

use crisp_executor::run::StageError;
use crisp_monitor::wire::{EncodeError, Failure};
use rustix::io::Errno;

/// A failed request. `monitor` is the path of its socket, which contains the pod's id.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LinkError {
    #[error("connect to monitor {}: {}", monitor.display(), std::io::Error::from(*errno))]
    Connect { monitor: PathBuf, errno: Errno },
    #[error("monitor {} closed the connection during {request}", monitor.display())]
    Gone { monitor: PathBuf, request: &'static str },
    #[error("monitor {} did not respond to {request} within {after:?}", monitor.display())]
    Deadline { monitor: PathBuf, request: &'static str, after: Duration },
    /// A container or exec that did not start.
    #[error("{0}")]
    Stage(StageError),
    #[error("{request}: {failure}")]
    Refused { request: &'static str, failure: Failure },
    #[error("{request} at monitor {}: {error}", monitor.display())]
    Unsent { monitor: PathBuf, request: &'static str, error: EncodeError },
    #[error("monitor {} broke the protocol in {request}: {reason}", monitor.display())]
    Protocol { monitor: PathBuf, request: &'static str, reason: String },
    #[error("{request} at monitor {}: {}", monitor.display(), std::io::Error::from(*errno))]
    System { monitor: PathBuf, request: &'static str, errno: Errno },
    #[error(
        "{request} needs {count} descriptors, at most {limit} can be passed: use fewer volumes or devices"
    )]
    TooManyDescriptors { request: &'static str, count: usize, limit: usize },
}

impl LinkError {
    /// Whether the connection has ended, so that a new one is required.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        matches!(self, Self::Gone { .. } | Self::Connect { .. })
    }

    /// The monitor's reason for a refusal.
    #[must_use]
    pub fn failure(&self) -> Option<&Failure> {
        match self {
            Self::Refused { failure, .. } => Some(failure),
            _ => None,
        }
    }
}
