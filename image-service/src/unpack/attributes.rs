//! Owner, mode, times and extended attributes.
//!
//! Each costs a system call per entry, so each is only set if creating the inode did not set it already: a
//! file of root's with a plain mode costs one call, for the times.

use std::collections::HashSet;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::PathBuf;
use std::sync::Once;

use rustix::fs::{AtFlags, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use super::UnpackFault;
use super::tar::{Entry, Time};
use crate::tree::xattr_checksum;

const SET_ID: u32 = 0o6000;
/// Smaller attributes always have space if there are free blocks.
const IN_INODE: usize = 1024;

/// The result of applying an entry's attributes.
pub(super) struct Applied {
    /// The checksum of its extended attributes.
    pub xattrs: u32,
    /// Whether the inode is exactly as in the entry.
    pub as_written: bool,
}

/// The target of attributes.
#[derive(Clone, Copy)]
pub(super) enum On<'a> {
    /// An open file.
    Open(BorrowedFd<'a>),
    /// A file that cannot be opened without side effects: a link, a device, a pipe.
    Named(BorrowedFd<'a>, &'a [u8]),
}

/// The process's file mode creation mask, which the server sets at its start so that plain modes need no
/// second system call. It is only read here, because all threads share it.
pub(super) fn umask() -> u32 {
    std::fs::read_to_string("/proc/self/status")
        .ok()
        .and_then(|status| {
            let line = status.lines().find_map(|line| line.strip_prefix("Umask:"))?;
            u32::from_str_radix(line.trim(), 8).ok()
        })
        // The strictest mask: then every mode is set explicitly.
        .unwrap_or(0o7777)
}

/// Sets owner, mode and extended attributes, in this order: a change of owner drops set-id bits and
/// capabilities. `mode_now` is the inode's present mode, if it is known.
pub(super) fn apply(
    on: On<'_>,
    entry: &Entry,
    mode: u32,
    mode_now: Option<u32>,
) -> Result<Applied, UnpackFault> {
    let owned = entry.uid != 0 || entry.gid != 0 || mode_now.is_none();
    if owned {
        let (uid, gid) = (Some(Uid::from_raw(entry.uid)), Some(Gid::from_raw(entry.gid)));
        match on {
            On::Open(fd) => rustix::fs::fchown(fd, uid, gid),
            On::Named(folder, name) => rustix::fs::chownat(folder, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW),
        }
        .map_err(UnpackFault::at("set its owner"))?;
    }
    let symlink = entry.kind == super::tar::Kind::Symlink;
    let kept = mode_now == Some(mode) && !(owned && mode & SET_ID != 0);
    if !symlink && !kept {
        let mode = Mode::from_raw_mode(mode);
        match on {
            On::Open(fd) => rustix::fs::fchmod(fd, mode),
            On::Named(folder, name) => rustix::fs::chmodat(folder, name, mode, AtFlags::empty()),
        }
        .map_err(UnpackFault::at("set its mode"))?;
    }
    let mut as_written = true;
    for (name, value) in &entry.xattrs {
        as_written &= set_xattr(on, name, value)?;
    }
    if entry.xattrs.len() > 1 {
        // An attribute that is set twice has the last value, and must count once.
        let distinct: HashSet<&[u8]> = entry.xattrs.iter().map(|(name, _)| name.as_slice()).collect();
        as_written &= distinct.len() == entry.xattrs.len();
    }
    let xattrs = entry.xattrs.iter().map(|(name, value)| (name.as_slice(), value.as_slice()));
    Ok(Applied { xattrs: xattr_checksum(xattrs), as_written })
}

/// Sets the modification time, and the access time to the same: an archive has none.
pub(super) fn touch(on: On<'_>, modified: Time) -> Result<(), UnpackFault> {
    let time = Timespec { tv_sec: modified.seconds, tv_nsec: modified.nanoseconds.into() };
    let times = Timestamps { last_access: time, last_modification: time };
    match on {
        On::Open(fd) => rustix::fs::futimens(fd, &times),
        On::Named(folder, name) => rustix::fs::utimensat(folder, name, &times, AtFlags::SYMLINK_NOFOLLOW),
    }
    .map_err(UnpackFault::at("set its times"))
}

/// Whether the inode now has exactly this attribute, without side effects.
fn set_xattr(on: On<'_>, name: &[u8], value: &[u8]) -> Result<bool, UnpackFault> {
    // Overlay's own marks are only made for whiteouts: an archive that could write them could redirect
    // lookups or graft other parts of the layer stack.
    if name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.") {
        return Ok(false);
    }
    let set = match on {
        On::Open(fd) => rustix::fs::fsetxattr(fd, name, value, XattrFlags::empty()),
        On::Named(folder, file) => {
            rustix::fs::lsetxattr(by_proc(folder, file), name, value, XattrFlags::empty())
        }
    };
    match set {
        // Not supported for this kind of file or on this file system. A capability must not be lost: the
        // program would fail later and elsewhere.
        Err(Errno::OPNOTSUPP | Errno::PERM) if name != b"security.capability" => {
            static ONCE: Once = Once::new();
            ONCE.call_once(|| {
                let name = super::lossy(name);
                tracing::warn!(
                    name,
                    "the store's file system does not take some extended attributes; they are left out"
                );
            });
            Ok(false)
        }
        // ext4 returns "no space" when the inode and one block are full, even on an empty disk.
        Err(Errno::TOOBIG | Errno::RANGE) => Err(too_large(name, value)),
        Err(Errno::NOSPC) if value.len() >= IN_INODE => Err(too_large(name, value)),
        // An access control list changes the mode.
        set => set
            .map(|()| !name.starts_with(b"system."))
            .map_err(UnpackFault::at("set its extended attributes")),
    }
}

fn too_large(name: &[u8], value: &[u8]) -> UnpackFault {
    UnpackFault::XattrTooLarge { name: super::lossy(name), size: value.len() }
}

/// The kernel sets attributes of links by path only. The path begins with the folder's descriptor, and the
/// last component is not followed, so this is as exact as the other calls.
fn by_proc(folder: BorrowedFd<'_>, name: &[u8]) -> PathBuf {
    use std::os::unix::ffi::OsStrExt;
    let mut path = PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd()));
    path.push(std::ffi::OsStr::from_bytes(name));
    path
}
