//! System calls for mounts.

use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Errno;

use super::checked;

/// `struct mount_attr`, mount_setattr(2).
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct MountAttr {
    /// MOUNT_ATTR_ bits to set.
    pub set: u64,
    /// MOUNT_ATTR_ bits to clear.
    pub clear: u64,
    /// One of MS_SHARED, MS_SLAVE, MS_PRIVATE, or 0.
    pub propagation: u64,
    /// For MOUNT_ATTR_IDMAP: the user namespace's descriptor.
    pub userns: u64,
}

#[cfg(feature = "compile")]
impl MountAttr {
    /// Maps the owners of the mount's files to a user namespace: the numbers on disk are then ids inside the
    /// namespace.
    pub(crate) fn idmap(user: BorrowedFd<'_>) -> Self {
        const MOUNT_ATTR_IDMAP: u64 = 0x0010_0000;
        Self { set: MOUNT_ATTR_IDMAP, userns: user.as_raw_fd() as u64, ..Self::default() }
    }
}

/// Changes the mount whose root is `mount`; with `recursive` also all mounts below it.
pub(crate) fn mount_setattr(mount: BorrowedFd<'_>, recursive: bool, attr: &MountAttr) -> Result<(), Errno> {
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is a C string, `attr` a valid mount_attr of the size given; both only read.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const *attr,
            size_of::<MountAttr>(),
        )
    };
    checked(result).map(drop)
}

/// Moves the calling thread into a mount namespace (and, with it, a working directory) of its own.
#[cfg(feature = "compile")]
pub(crate) fn unshare_mount_namespace() -> Result<(), Errno> {
    // SAFETY: touches neither memory nor descriptors.
    checked(unsafe { libc::syscall(libc::SYS_unshare, libc::CLONE_NEWNS) }).map(drop)
}
