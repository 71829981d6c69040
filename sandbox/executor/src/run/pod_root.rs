//! The monitor's own root: a small read-only tmpfs that holds only what containers take from
//! their pod.
//!
//! ```text
//!  /       tmpfs, read-only
//!  /root   where a starting container's root is attached, in its own mount namespace
//!  /null   the null device: mask for files, and standard stream of processes without one
//!  /shm    the pod's shared memory, tmpfs, 1777
//! ```
//!
//! With it the monitor pins no mount of the host's, and the clone of a container copies two mounts.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{CWD, FileType, Mode, OFlags, fstat, makedev, mkdirat, mknodat, open, openat};
use rustix::io::Errno;
use rustix::mount::{MountAttrFlags, MountPropagationFlags, UnmountFlags, mount_change, unmount};
use rustix::process::{DumpableBehavior, chdir, fchdir, pivot_root, set_dumpable_behavior};

use super::error::{At, Stage, StageError};
use super::filesystem;
use crate::sys::{self, MountAttr};

/// Where a container's root is attached before it becomes the root.
pub(crate) const ROOT_TARGET: &CStr = c"/root";
/// The null device in the pod's root.
const NULL: &CStr = c"/null";
/// The pod's shared memory in the pod's root.
const SHM: &CStr = c"/shm";

/// Major and minor number of /dev/null, on every Linux.
const NULL_DEVICE: (u32, u32) = (1, 3);

const ROOT_FLAGS: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NOSUID.union(MountAttrFlags::MOUNT_ATTR_NOEXEC);
const SHM_FLAGS: MountAttrFlags = ROOT_FLAGS.union(MountAttrFlags::MOUNT_ATTR_NODEV);

/// Leaves the host's root for a tiny one: no container can inspect the process from then on. The caller has
/// one thread and has already unshared its mount namespace. [`leave_host`] and [`add_shm`] are to follow before
/// any container.
///
/// # Errors
/// [`Stage::PodRoot`], naming the step.
pub fn enter() -> Result<(), StageError> {
    let at = Stage::PodRoot;
    set_dumpable_behavior(DumpableBehavior::NotDumpable).at(at, "hide from containers")?;
    let everything = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change(c"/", everything).at(at, "keep mounts from spreading to the host")?;
    let root = tmpfs(&[c"size=64k", c"mode=0755"], ROOT_FLAGS)?;
    mkdirat(&root, c"root", Mode::from_raw_mode(0o700)).at(at, "/root")?;
    mkdirat(&root, c"shm", Mode::from_raw_mode(0o755)).at(at, "/shm")?;
    let device = makedev(NULL_DEVICE.0, NULL_DEVICE.1);
    mknodat(&root, c"null", FileType::CharacterDevice, Mode::from_raw_mode(0o666), device).at(at, "/null")?;
    rustix::fs::chmodat(&root, c"null", Mode::from_raw_mode(0o666), rustix::fs::AtFlags::empty())
        .at(at, "/null")?;
    // Any folder will do to attach it at, in a mount namespace that is ours alone; this one is everywhere.
    let spot = open(c"/proc", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).at(at, "/proc")?;
    filesystem::attach(root.as_fd(), spot.as_fd()).at(at, "attach tmpfs")?;
    let readonly = MountAttr { set: MountAttrFlags::MOUNT_ATTR_RDONLY.bits().into(), ..MountAttr::default() };
    sys::mount_setattr(root.as_fd(), false, &readonly).at(at, "make it read-only")?;
    pivot(root.as_fd()).at(at, "pivot_root")
}

/// Gives the tiny root a pod's shared memory of at most `bytes`.
///
/// # Errors
/// [`Stage::PodRoot`], naming the step.
pub fn add_shm(bytes: u64) -> Result<(), StageError> {
    let size = CString::new(format!("size={bytes}")).unwrap_or_default();
    let shm = tmpfs(&[c"source=shm", &size, c"mode=1777"], SHM_FLAGS)?;
    let target = openat(CWD, SHM, OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
    let target = target.at(Stage::PodRoot, "/shm")?;
    filesystem::attach(shm.as_fd(), target.as_fd()).at(Stage::PodRoot, "attach /shm")
}

/// Unmounts the host's root: no host path exists for the monitor from then on. By itself because it takes
/// an RCU grace period.
///
/// # Errors
/// [`Stage::PodRoot`].
pub fn leave_host() -> Result<(), StageError> {
    detach_old().at(Stage::PodRoot, "unmount the host's root")
}

/// Makes the mount `root` the root, and everything else unreachable.
pub(crate) fn switch(root: BorrowedFd<'_>) -> Result<(), Errno> {
    pivot(root)?;
    detach_old()
}

/// The old root ends up on top of the new one, where one unmount takes it and all below away.
fn pivot(root: BorrowedFd<'_>) -> Result<(), Errno> {
    fchdir(root)?;
    pivot_root(c".", c".")
}

fn detach_old() -> Result<(), Errno> {
    unmount(c".", UnmountFlags::DETACH)?;
    chdir(c"/")
}

fn tmpfs(options: &[&CStr], flags: MountAttrFlags) -> Result<OwnedFd, StageError> {
    filesystem::new(c"tmpfs", options, flags.bits().into()).map_err(|refused| {
        StageError::explained(Stage::PodRoot, refused.errno, format!("with a tmpfs: {refused}"))
    })
}

/// The pod's null device, checked to be one. With [`OFlags::PATH`] for masks, [`OFlags::RDWR`] for streams.
pub(crate) fn null(how: OFlags, stage: Stage) -> Result<OwnedFd, StageError> {
    let null = open(NULL, how | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty());
    let null = null.at(stage, "null device of the pod")?;
    let stat = fstat(&null).at(stage, "null device of the pod")?;
    let real = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
        && stat.st_rdev == makedev(NULL_DEVICE.0, NULL_DEVICE.1);
    if real {
        return Ok(null);
    }
    let why = "null device of the pod: is something else".to_owned();
    Err(StageError::explained(stage, Errno::NODEV, why))
}

/// A detached copy of the pod's shared memory.
pub(crate) fn shm() -> Result<OwnedFd, Errno> {
    let shm = openat(CWD, SHM, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    filesystem::copy(shm.as_fd(), false)
}
