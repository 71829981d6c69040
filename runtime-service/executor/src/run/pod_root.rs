//! The monitor's own root: a small read-only tmpfs that holds only what containers take from
//! their pod.
//!
//! ```text
//!  /       tmpfs, read-only
//!  /root   where a starting container's root is attached, in its own mount namespace
//!  /null   the null device: mask for files, standard stream of who has none
//!  /shm    the pod's shared memory, tmpfs, 1777
//! ```
//!
//! With it the monitor pins no mount of the host's, and the clone of a container copies two mounts.

use super::error::{Stage, StageError};

/// Where a container's root is attached before it becomes the root.
pub(crate) const SPOT: &std::ffi::CStr = c"/root";
/// The null device in the pod's root.
pub(crate) const NULL: &std::ffi::CStr = c"/null";
/// The pod's shared memory in the pod's root.
pub(crate) const SHM: &std::ffi::CStr = c"/shm";

/// Leaves the host's root for a tiny one. The caller has one thread and has already unshared its
/// mount namespace; every host path is gone for it afterwards.
///
/// `shm_bytes`: size limit of the pod's shared memory.
///
/// # Errors
/// [`Stage::PodRoot`], naming the step.
pub fn enter(shm_bytes: u64) -> Result<(), StageError> {
    let _ = (SPOT, NULL, SHM, shm_bytes);
    Err(StageError::new(Stage::PodRoot, rustix::io::Errno::NOSYS, "tmpfs"))
}
