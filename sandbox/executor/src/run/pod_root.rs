//! The monitor's own root: a small read-only tmpfs that holds only what containers take from
//! their pod.
//!
//! ```text
//!  /          tmpfs, read-only; one for all pods of a server
//!  /root      where a starting container's root is attached, in its own mount namespace
//!  /own       tmpfs of this pod alone, read-only, as containers see what is in it:
//!  /own/null  the null device: mask for files, and standard stream of processes without one
//!  /own/shm   the pod's shared memory, 1777; or the host's
//!  /proc      where the pod has a user namespace: the kernel lets a process in one mount a new /proc and /sys
//!  /sys       only where it can see all of an older one
//!  /proc      else a place for that of a shared PID namespace, which a kernel before 6.17 needs, see `pod_init`
//! ```
//!
//! With it the monitor pins no mount of the host's, and the clone of a container copies three mounts.
//! An inode that two pods have would be a way from one to the other: locks, notifications, attributes.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, Uid, chmodat, chownat, fstat, makedev, mkdirat, mknodat, open,
    openat,
};
use rustix::io::Errno;
use rustix::mount::{MountAttrFlags, MountPropagationFlags, UnmountFlags, mount_change, unmount};
use rustix::process::{DumpableBehavior, chdir, fchdir, pivot_root, set_dumpable_behavior};

use super::error::{At, Stage, StageError};
use super::filesystem;
use crate::sys::{self, MountAttr};
use crate::user_namespace::UserNamespace;

/// Where a container's root is attached before it becomes the root.
pub(crate) const ROOT_TARGET: &CStr = c"/root";
/// A folder that only this pod has.
const OWN: &CStr = c"/own";
const NULL: &CStr = c"/own/null";
/// The pod's shared memory, or where the host's is attached.
pub const SHM: &CStr = c"/own/shm";

/// Major and minor number of /dev/null, on every Linux.
const NULL_DEVICE: (u32, u32) = (1, 3);

const ROOT_FLAGS: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NOSUID.union(MountAttrFlags::MOUNT_ATTR_NOEXEC);
const SHM_FLAGS: MountAttrFlags = ROOT_FLAGS.union(MountAttrFlags::MOUNT_ATTR_NODEV);

/// Leaves the host's root for a tiny one: no container can inspect the process from then on. The caller has
/// one thread and has already unshared its mount namespace. [`leave_host`] and [`add_own`] are to follow before
/// any container. `user`: the pod's user namespace.
///
/// # Errors
/// [`Stage::PodRoot`], naming the step.
pub fn enter(user: Option<&UserNamespace>) -> Result<(), StageError> {
    let at = Stage::PodRoot;
    set_dumpable_behavior(DumpableBehavior::NotDumpable).at(at, "hide from containers")?;
    let everything = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change(c"/", everything).at(at, "keep mounts from spreading to the host")?;
    let root = tmpfs(&[c"size=64k", c"mode=0755"], ROOT_FLAGS)?;
    mkdirat(&root, c"root", Mode::from_raw_mode(0o755)).at(at, "/root")?;
    mkdirat(&root, c"own", Mode::from_raw_mode(0o755)).at(at, "/own")?;
    // Any folder will do to attach it at, in a mount namespace that is ours alone; this one is everywhere.
    let spot = open(c"/proc", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).at(at, "/proc")?;
    filesystem::attach(root.as_fd(), spot.as_fd()).at(at, "attach tmpfs")?;
    mkdirat(&root, c"proc", Mode::from_raw_mode(0o755)).at(at, "/proc")?;
    if user.is_some() {
        attach_new(&root, c"proc", c"proc")?;
        mkdirat(&root, c"sys", Mode::from_raw_mode(0o755)).at(at, "/sys")?;
        attach_new(&root, c"sys", c"sysfs")?;
    }
    let readonly = MountAttr { set: MountAttrFlags::MOUNT_ATTR_RDONLY.bits().into(), ..MountAttr::default() };
    sys::mount_setattr(root.as_fd(), false, &readonly).at(at, "make it read-only")?;
    pivot(root.as_fd()).at(at, "pivot_root")
}

/// Gives the tiny root what is the pod's own: a null device, and shared memory of at most `shm_bytes`.
/// `user`: the pod's user namespace.
///
/// # Errors
/// [`Stage::PodRoot`], naming the step.
pub fn add_own(shm_bytes: u64, user: Option<&UserNamespace>) -> Result<(), StageError> {
    let at = Stage::PodRoot;
    let size = CString::new(format!("size={shm_bytes}")).unwrap_or_default();
    let own = tmpfs(&[c"source=shm", c"mode=0755", &size], ROOT_FLAGS)?;
    let device = makedev(NULL_DEVICE.0, NULL_DEVICE.1);
    let all = Mode::from_raw_mode(0o666);
    mknodat(&own, c"null", FileType::CharacterDevice, all, device).at(at, "/own/null")?;
    chmodat(&own, c"null", all, AtFlags::empty()).at(at, "/own/null")?;
    mkdirat(&own, c"shm", Mode::from_raw_mode(0o1777)).at(at, "/own/shm")?;
    chmodat(&own, c"shm", Mode::from_raw_mode(0o1777), AtFlags::empty()).at(at, "/own/shm")?;
    if let Some(UserNamespace { mappings, .. }) = user {
        let (uid, gid) = (mappings.host_uid(0).map(Uid::from_raw), mappings.host_gid(0).map(Gid::from_raw));
        chownat(&own, c"shm", uid, gid, AtFlags::empty()).at(at, "/own/shm")?;
    }
    let readonly = MountAttr { set: MountAttrFlags::MOUNT_ATTR_RDONLY.bits().into(), ..MountAttr::default() };
    sys::mount_setattr(own.as_fd(), false, &readonly).at(at, "make /own read-only")?;
    let target = openat(CWD, OWN, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).at(at, "/own")?;
    filesystem::attach(own.as_fd(), target.as_fd()).at(at, "attach /own")?;
    let shm = copy_of(SHM).at(at, "/own/shm")?;
    let writable = MountAttr {
        set: SHM_FLAGS.bits().into(),
        clear: MountAttrFlags::MOUNT_ATTR_RDONLY.bits().into(),
        ..MountAttr::default()
    };
    sys::mount_setattr(shm.as_fd(), false, &writable).at(at, "make /own/shm writable")?;
    let target = openat(CWD, SHM, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).at(at, "/own/shm")?;
    filesystem::attach(shm.as_fd(), target.as_fd()).at(at, "attach /own/shm")
}

/// Attaches a /proc of this process's PID namespace, to be copied for containers in that.
pub(crate) fn add_proc() -> Result<(), StageError> {
    let root = openat(CWD, c"/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).at(Stage::PodRoot, "/")?;
    attach_new(&root, c"proc", c"proc")
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

/// Mounts a new file system of type `kind` at the place `name`.
fn attach_new(root: &OwnedFd, name: &CStr, kind: &CStr) -> Result<(), StageError> {
    let subject = || format!("/{}", name.to_string_lossy());
    let new = filesystem::new(kind, &[], SHM_FLAGS.bits().into()).map_err(|refused| {
        StageError::explained(Stage::PodRoot, refused.errno, format!("{}: {refused}", subject()))
    })?;
    let target = openat(root, name, OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
    let target = target.at(Stage::PodRoot, subject())?;
    filesystem::attach(new.as_fd(), target.as_fd()).at(Stage::PodRoot, subject())
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
    copy_of(SHM)
}

/// A detached copy of the /sys of the pod's network, of a pod with a user namespace.
pub(crate) fn sysfs() -> Result<OwnedFd, Errno> {
    copy_of(c"/sys")
}

fn copy_of(place: &CStr) -> Result<OwnedFd, Errno> {
    let place = openat(CWD, place, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    filesystem::copy(place.as_fd(), false)
}
