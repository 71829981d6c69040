//! What a container has ready for its start.

use std::os::fd::OwnedFd;

use crisp_executor::cgroup::JoinFds;
use oci_spec::runtime::LinuxResources;
use tokio::sync::OwnedSemaphorePermit;

/// Made before the start was requested.
#[derive(Debug)]
pub struct Prepared {
    /// The root file system, as a detached mount.
    pub root: OwnedFd,
    pub cgroup: JoinFds,
    /// The limits of the cgroup, and the devices that it allows.
    pub resources: Option<LinuxResources>,
    /// Of those that may be prepared.
    pub permit: OwnedSemaphorePermit,
}
