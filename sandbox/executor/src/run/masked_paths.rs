//! Paths of a container that are masked or read-only, mostly in /proc and /sys.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, OFlags, fstat};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;

use super::error::{At, Quoted, Stage, StageError};
use super::{filesystem, pod_root};
use crate::in_root;

const LOCKED: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_RDONLY
    .union(MountAttrFlags::MOUNT_ATTR_NOSUID)
    .union(MountAttrFlags::MOUNT_ATTR_NODEV)
    .union(MountAttrFlags::MOUNT_ATTR_NOEXEC);

/// Hides `paths`: files behind the pod's null device, never the container's (which may be anything
/// by now), folders behind one empty tmpfs. Missing ones are skipped.
pub(crate) fn mask(root: BorrowedFd<'_>, paths: &[CString]) -> Result<(), StageError> {
    if paths.is_empty() {
        return Ok(());
    }
    let null = pod_root::null(OFlags::PATH, Stage::MaskPath)?;
    let mut empty: Option<OwnedFd> = None;
    for path in paths {
        let Some(place) = find(root, path, Stage::MaskPath)? else { continue };
        let stat = fstat(&place).at(Stage::MaskPath, Quoted(path))?;
        let folder = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        let cover = if folder { cover_folder(&mut empty) } else { filesystem::copy(null.as_fd(), false) };
        let cover = cover.at(Stage::MaskPath, Quoted(path))?;
        filesystem::attach(cover.as_fd(), place.as_fd()).at(Stage::MaskPath, Quoted(path))?;
        if folder && empty.is_none() {
            empty = Some(cover);
        }
    }
    Ok(())
}

/// The first folder gets a new file system, the others a copy of that mount, which is attached by then.
fn cover_folder(empty: &mut Option<OwnedFd>) -> Result<OwnedFd, Errno> {
    match empty {
        Some(empty) => filesystem::copy(empty.as_fd(), false),
        None => filesystem::new(c"tmpfs", &[c"size=4k", c"mode=0555", c"ro"], LOCKED.bits().into())
            .map_err(|refused| refused.errno),
    }
}

/// Makes `paths` read-only. Missing ones are skipped.
pub(crate) fn make_read_only(root: BorrowedFd<'_>, paths: &[CString]) -> Result<(), StageError> {
    for path in paths {
        let Some(place) = find(root, path, Stage::ReadonlyPath)? else { continue };
        cover_with_itself(place.as_fd()).at(Stage::ReadonlyPath, Quoted(path))?;
    }
    Ok(())
}

fn cover_with_itself(place: BorrowedFd<'_>) -> Result<(), Errno> {
    let copy = filesystem::copy(place, true)?;
    filesystem::set_read_only(copy.as_fd(), true)?;
    filesystem::attach(copy.as_fd(), place)
}

fn find(root: BorrowedFd<'_>, path: &CStr, stage: Stage) -> Result<Option<OwnedFd>, StageError> {
    match in_root::find(root, path) {
        Ok(place) => Ok(Some(place)),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(errno) => Err(StageError::new(stage, errno, Quoted(path))),
    }
}
