//! The end of the monitor.

use std::time::Instant;

use crate::launch::Requester;

/// The state of the monitor's own end.
///
/// ```text
///   No --SIGTERM of init--> WithContainers --none is left--> Killing --no process is left--> Over
///    +----------------+------- shutdown ------------------------^
/// ```
pub(crate) enum Ending {
    No,
    /// The host's init stops the pod's scope, its slice or the host, and has signalled the containers too:
    /// after the last one there is no reason to stay, and init waits, for 90 s by default. SIGTERM from any
    /// other process does nothing: a person who runs pkill would not expect it.
    WithContainers,
    /// Everything was killed; the response waits until the last process is gone.
    Killing {
        /// None for init, which waits for no response.
        requester: Option<Requester>,
        give_up_at: Instant,
    },
    Over,
}

impl Ending {
    pub(crate) fn with_containers(&mut self) {
        if matches!(self, Self::No) {
            *self = Self::WithContainers;
        }
    }

    pub(crate) fn give_up_at(&self) -> Option<Instant> {
        match self {
            Self::Killing { give_up_at, .. } => Some(*give_up_at),
            Self::No | Self::WithContainers | Self::Over => None,
        }
    }

    pub(crate) fn has_begun(&self) -> bool {
        matches!(self, Self::Killing { .. } | Self::Over)
    }
}
