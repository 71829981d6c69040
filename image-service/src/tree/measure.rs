//! The disk usage of a tree, and its checksum.

use std::collections::HashSet;
use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Advice, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::checksum::{Attributes, Checksum, xattr_checksum};
use super::read_rate::ReadRate;
use super::walk::{Found, walk};

/// The parts of a tree that are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Depth {
    /// Names and attributes.
    Metadata,
    /// Everything; without it the content's checksum is zero.
    Content,
}

/// Bytes that reading one inode counts for a [`ReadRate`].
const INODE: u64 = 4096;

/// The measured tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Measured {
    /// In allocated blocks.
    pub bytes: u64,
    pub inodes: u64,
    pub checksum: Checksum,
}

/// Measures the tree at `root`, as fast as `rate` allows. A file with several names counts once. `implied`
/// are the directories whose attributes do not count.
pub(crate) fn measure(
    root: &Path,
    depth: Depth,
    implied: &HashSet<&[u8]>,
    rate: &mut ReadRate,
) -> io::Result<Measured> {
    let mut measured = Measured { bytes: 0, inodes: 0, checksum: Checksum::default() };
    let mut seen = HashSet::new();
    let mut buffer = if depth == Depth::Content { vec![0; 256 * 1024] } else { Vec::new() };
    walk(root, |found| {
        let stat = found.stat;
        let kind = FileType::from_raw_mode(stat.st_mode);
        rate.count(INODE);
        if kind == FileType::Directory && implied.contains(found.path) {
            measured.checksum.add_implied(found.path);
            measured.bytes += u64::try_from(stat.st_blocks).unwrap_or_default() * 512;
            measured.inodes += 1;
            return Ok(());
        } else {
            add_name(&mut measured.checksum, &found, kind)?;
        }
        if kind != FileType::Directory && stat.st_nlink > 1 && !seen.insert(stat.st_ino) {
            return Ok(());
        }
        measured.bytes += u64::try_from(stat.st_blocks).unwrap_or_default() * 512;
        measured.inodes += 1;
        if depth == Depth::Content {
            add_content(&mut measured.checksum, &found, kind, &mut buffer, rate)?;
        }
        Ok(())
    })?;
    Ok(measured)
}

fn add_name(checksum: &mut Checksum, found: &Found<'_>, kind: FileType) -> io::Result<()> {
    let target = match kind {
        FileType::Symlink => rustix::fs::readlinkat(found.folder, found.name, Vec::new())?.into_bytes(),
        _ => Vec::new(),
    };
    checksum.add_name(found.path, &attributes_of(found.stat, &target));
    Ok(())
}

fn attributes_of<'a>(stat: &Stat, target: &'a [u8]) -> Attributes<'a> {
    Attributes {
        mode: stat.st_mode,
        uid: stat.st_uid,
        gid: stat.st_gid,
        size: u64::try_from(stat.st_size).unwrap_or_default(),
        device: stat.st_rdev,
        target,
    }
}

fn add_content(
    checksum: &mut Checksum,
    found: &Found<'_>,
    kind: FileType,
    buffer: &mut [u8],
    rate: &mut ReadRate,
) -> io::Result<()> {
    match kind {
        FileType::RegularFile => {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let file = rustix::fs::openat(found.folder, found.name, flags, Mode::empty())?;
            // The disk must be read, not the page cache of an earlier write; and a check of all layers must
            // not evict the pages that containers use. Mapped pages stay in any case.
            let _ = rustix::fs::fadvise(&file, 0, None, Advice::DontNeed);
            let crc = crc_of(&file, buffer, rate)?;
            let _ = rustix::fs::fadvise(&file, 0, None, Advice::DontNeed);
            checksum.add_content(crc, xattrs(By::Descriptor(file.as_fd()))?);
        }
        _ => {
            let crc = xattrs(By::Path(by_proc(found.folder, found.name)))?;
            if crc != 0 {
                checksum.add_content(0, crc);
            }
        }
    }
    Ok(())
}

fn crc_of(file: &OwnedFd, buffer: &mut [u8], rate: &mut ReadRate) -> io::Result<u32> {
    let mut crc = crc32fast::Hasher::new();
    loop {
        match rustix::io::read(file, &mut *buffer) {
            Ok(0) => return Ok(crc.finalize()),
            Ok(n) => {
                crc.update(&buffer[..n]);
                rate.count(n as u64);
            }
            Err(Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
}

enum By<'a> {
    Descriptor(BorrowedFd<'a>),
    Path(PathBuf),
}

/// The checksum of an inode's extended attributes.
fn xattrs(of: By<'_>) -> io::Result<u32> {
    // The kernel's own limit for the list and for a value, xattr(7).
    let mut names = vec![0; 64 * 1024];
    let listed = match &of {
        By::Descriptor(fd) => rustix::fs::flistxattr(fd, &mut names[..]),
        By::Path(path) => rustix::fs::llistxattr(path, &mut names[..]),
    };
    let length = match listed {
        Ok(length) => length,
        Err(Errno::OPNOTSUPP) => 0,
        Err(e) => return Err(e.into()),
    };
    let mut found = Vec::new();
    for name in names[..length].split(|b| *b == 0).filter(|name| !name.is_empty()) {
        let mut value = vec![0; 64 * 1024];
        let read = match &of {
            By::Descriptor(fd) => rustix::fs::fgetxattr(fd, name, &mut value[..]),
            By::Path(path) => rustix::fs::lgetxattr(path, name, &mut value[..]),
        };
        value.truncate(read?);
        found.push((name, value));
    }
    Ok(xattr_checksum(found.iter().map(|(name, value)| (*name, value.as_slice()))))
}

/// The checksum of the extended attributes of an open file.
pub(crate) fn xattrs_of(fd: BorrowedFd<'_>) -> io::Result<u32> {
    xattrs(By::Descriptor(fd))
}

/// The kernel reads attributes of links, devices and pipes by path only. The path begins with the folder's
/// descriptor, and the last component is not followed.
fn by_proc(folder: BorrowedFd<'_>, name: &CStr) -> PathBuf {
    let mut path = PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd()));
    path.push(std::ffi::OsStr::from_bytes(name.to_bytes()));
    path
}
