//! The first process of a pod's shared PID namespace: it reaps, and does nothing else.

use std::os::fd::OwnedFd;

use super::error::{Stage, StageError};

/// The pod's init, a child of the caller. Everything in the namespace ends with it.
#[derive(Debug)]
pub struct PodInit {
    /// In the caller's PID namespace.
    pub pid: i32,
    /// For [`PodContext::init`](super::PodContext::init) and for ending it (SIGKILL).
    pub pidfd: OwnedFd,
}

/// Clones the pod's init into a new PID namespace. It keeps no descriptor and dies with its parent.
/// The caller has one thread.
///
/// # Errors
/// [`Stage::Clone`].
pub fn start() -> Result<PodInit, StageError> {
    Err(StageError::new(Stage::Clone, rustix::io::Errno::NOSYS, "pod init"))
}
