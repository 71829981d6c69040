//! What a container has ready for its start.

use std::os::fd::OwnedFd;

use crisp_executor::cgroup::JoinFds;

use super::config::Resources;

/// Made before the start was requested.
#[derive(Debug)]
pub struct Prepared {
    /// The root file system, as a detached mount.
    pub root: OwnedFd,
    pub cgroup: JoinFds,
    /// The limits of the cgroup.
    pub limits: Resources,
}
