//! Directories that an archive uses without bringing them, such as `home` and `home/user` of an archive
//! that holds `home/user/app` alone.
//!
//! In an overlay the topmost layer that has a directory decides about its owner and mode, so such a
//! directory must look like the one below it: otherwise the user's own home would belong to root. Layers
//! are unpacked without their parents; therefore this happens when an image puts them in order.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use super::path::split;

/// Gives each directory in `implied` below `tree` the attributes of the one that it covers in `below`,
/// nearest layer first. Answers those that cover none.
pub(crate) fn inherit(tree: &Path, below: &[PathBuf], implied: &[String]) -> io::Result<Vec<String>> {
    let tree = open(tree)?;
    let below: Vec<OwnedFd> = below.iter().map(|layer| open(layer)).collect::<Result<_, _>>()?;
    let mut left = Vec::new();
    for path in implied {
        let covered = if hides_below(&tree, path)? { None } else { covered(&below, path)? };
        match covered {
            Some(covered) => copy(&covered, &beneath(&tree, path.as_bytes())?)?,
            None => left.push(path.clone()),
        }
    }
    Ok(left)
}

/// The directory that shows through at `path`.
fn covered(below: &[OwnedFd], path: &str) -> Result<Option<OwnedFd>, Errno> {
    for layer in below {
        match beneath(layer, path.as_bytes()) {
            Ok(directory) => return Ok(Some(directory)),
            Err(Errno::NOENT) if !hides_below(layer, path)? => {}
            // Deleted there, or something else than a directory on the way.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(None),
            Err(e) => return Err(e),
        }
    }
    Ok(None)
}

/// Whether `path`, or a directory that it is in, hides what the layers below have there.
fn hides_below(layer: &OwnedFd, path: &str) -> Result<bool, Errno> {
    let mut path = path.as_bytes();
    while !path.is_empty() {
        if let Ok(directory) = beneath(layer, path) {
            let mut value = [0; 1];
            match rustix::fs::fgetxattr(&directory, "trusted.overlay.opaque", &mut value[..]) {
                Ok(1) if value == *b"y" => return Ok(true),
                Ok(_) | Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::RANGE) => {}
                Err(e) => return Err(e),
            }
        }
        path = split(path).0;
    }
    Ok(false)
}

fn open(layer: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    rustix::fs::openat(CWD, layer, flags, Mode::empty())
}

fn beneath(layer: &OwnedFd, path: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    loop {
        match rustix::fs::openat2(layer, path, flags, Mode::empty(), resolve) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            done => return done,
        }
    }
}

fn copy(from: &OwnedFd, to: &OwnedFd) -> Result<(), Errno> {
    let stat = rustix::fs::fstat(from)?;
    rustix::fs::fchown(to, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))?;
    rustix::fs::fchmod(to, Mode::from_raw_mode(stat.st_mode))?;
    let mut names = vec![0; 64 * 1024];
    let length = rustix::fs::flistxattr(from, &mut names[..])?;
    for name in names[..length].split(|b| *b == 0) {
        if !name.is_empty() && !name.starts_with(b"trusted.overlay.") {
            copy_xattr(from, to, name)?;
        }
    }
    let time = |seconds: i64, nanoseconds: u64| Timespec {
        tv_sec: seconds,
        tv_nsec: i64::try_from(nanoseconds).unwrap_or_default(),
    };
    let modified = time(stat.st_mtime, stat.st_mtime_nsec);
    rustix::fs::futimens(to.as_fd(), &Timestamps { last_access: modified, last_modification: modified })
}

fn copy_xattr(from: &OwnedFd, to: &OwnedFd, name: &[u8]) -> Result<(), Errno> {
    let mut value = vec![0; 64 * 1024];
    let length = rustix::fs::fgetxattr(from, name, &mut value[..])?;
    rustix::fs::fsetxattr(to, name, &value[..length], XattrFlags::empty())
}
