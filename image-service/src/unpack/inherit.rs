//! Directories that an archive uses without bringing them, such as `home` and `home/user` of an archive
//! that holds `home/user/app` alone.
//!
//! In an overlay the topmost layer that has a directory decides about its owner and mode, so such a
//! directory must look like the one below it: otherwise the user's own home would belong to root. Layers
//! are unpacked without their parents; therefore this happens when an image puts them in order.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use crisp_operation::tree::{open_beneath, open_root};
use rustix::fs::{Gid, Mode, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

/// Gives each directory in `implied` below `tree` the attributes of the one that it covers in `below`,
/// nearest layer first. Returns those that cover none. Takes what it looked up from `lookups`, and fails when
/// none is left: the store waits for this.
pub(crate) fn inherit(
    tree: &Path,
    below: &[PathBuf],
    implied: &[String],
    lookups: &mut u64,
) -> io::Result<Vec<String>> {
    let tree = open_root(tree)?;
    let below: Vec<OwnedFd> = below.iter().map(|layer| open_root(layer)).collect::<Result<_, _>>()?;
    let mut left = Vec::new();
    for path in implied {
        match (look_up(&tree, path, lookups)?, covered(&below, path, lookups)?) {
            (Lookup::Found { directory, hides_below: false }, Some(covered)) => copy(&covered, &directory)?,
            _ => left.push(path.clone()),
        }
    }
    Ok(left)
}

/// The directory that shows through at `path`.
fn covered(below: &[OwnedFd], path: &str, lookups: &mut u64) -> io::Result<Option<OwnedFd>> {
    for layer in below {
        match look_up(layer, path, lookups)? {
            Lookup::Found { directory, .. } => return Ok(Some(directory)),
            Lookup::Missing => {}
            Lookup::Hidden => return Ok(None),
        }
    }
    Ok(None)
}

/// What one layer has at a path.
enum Lookup {
    /// A directory; what the layers below have there may be hidden.
    Found { directory: OwnedFd, hides_below: bool },
    /// Nothing, and the layers below show through.
    Missing,
    /// Nothing, and the layers below are hidden: by a deletion, by something else than a directory, or by
    /// an opaque directory on the way.
    Hidden,
}

fn look_up(layer: &OwnedFd, path: &str, lookups: &mut u64) -> io::Result<Lookup> {
    let mut directory = open_beneath(layer, ".")?;
    let mut hides_below = false;
    for component in path.split('/') {
        *lookups = lookups.checked_sub(1).ok_or_else(|| {
            io::Error::other("the image's layers use too many directories without bringing them")
        })?;
        directory = match open_beneath(&directory, component) {
            Ok(next) => next,
            Err(Errno::NOENT) if !hides_below => return Ok(Lookup::Missing),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(Lookup::Hidden),
            Err(e) => return Err(e.into()),
        };
        hides_below = hides_below || is_opaque(&directory)?;
    }
    Ok(Lookup::Found { directory, hides_below })
}

fn is_opaque(directory: &OwnedFd) -> Result<bool, Errno> {
    let mut value = [0; 1];
    match rustix::fs::fgetxattr(directory, "trusted.overlay.opaque", &mut value[..]) {
        Ok(length) => Ok(length == 1 && value == *b"y"),
        Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::RANGE) => Ok(false),
        Err(e) => Err(e),
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
