//! The exit of a container.

use serde::{Deserialize, Serialize};

/// The code that containerd and kubelet show for a failed start.
pub const START_ERROR_CODE: i32 = 128;
/// The exit is unknown: the monitor and its record are gone.
pub const LOST_CODE: i32 = 255;

/// The end of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// 0 to 255; 128 + n for signal n.
    pub code: i32,
    pub reason: Reason,
    /// For people; empty when the code is sufficient.
    pub message: String,
    /// Nanoseconds since 1970. None: it never ran.
    pub started_at: Option<i64>,
    /// Nanoseconds since 1970.
    pub finished_at: i64,
}

/// The reason of an exit, in the words that kubelet shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reason {
    Completed,
    Error,
    OomKilled,
    StartError,
    Unknown,
}

impl Reason {
    /// The reason for a process that ended by itself.
    #[must_use]
    pub fn of(code: i32, oom: bool) -> Self {
        if oom {
            Self::OomKilled
        } else if code == 0 {
            Self::Completed
        } else {
            Self::Error
        }
    }

    /// As ContainerStatus.reason.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "Completed",
            Self::Error => "Error",
            Self::OomKilled => "OOMKilled",
            Self::StartError => "StartError",
            Self::Unknown => "Unknown",
        }
    }
}

impl Exit {
    /// The exit of a start that failed at `finished_at`.
    #[must_use]
    pub fn start_error(message: String, finished_at: i64) -> Self {
        Self { code: START_ERROR_CODE, reason: Reason::StartError, message, started_at: None, finished_at }
    }

    /// An exit that was not observed.
    #[must_use]
    pub fn lost(message: String, finished_at: i64) -> Self {
        Self { code: LOST_CODE, reason: Reason::Unknown, message, started_at: None, finished_at }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons() {
        assert_eq!(Reason::of(0, false).as_str(), "Completed");
        assert_eq!(Reason::of(3, false).as_str(), "Error");
        assert_eq!(Reason::of(137, true).as_str(), "OOMKilled");
    }
}
