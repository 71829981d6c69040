//! The end of the monitor.

use std::time::Instant;

use crate::launch::Requester;

/// How far the monitor's own end is.
pub(crate) enum Ending {
    No,
    /// Everything was killed; the response waits until the last process is gone.
    Killing {
        requester: Requester,
        give_up_at: Instant,
    },
    Over,
}

impl Ending {
    pub(crate) fn give_up_at(&self) -> Option<Instant> {
        match self {
            Self::Killing { give_up_at, .. } => Some(*give_up_at),
            Self::No | Self::Over => None,
        }
    }

    pub(crate) fn has_begun(&self) -> bool {
        !matches!(self, Self::No)
    }
}
