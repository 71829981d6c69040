//! Copies the image's files into marked mounts whose folder is empty (see [`crate::spec::copy_up`]).
//!
//! ```text
//!  image --copied, flushed--> .NAME.copying/files        beside the volume
//!                             .NAME.copying/moving       written: from now on the next server continues
//!                             .NAME.copying/files/* --moved--> NAME
//!                             .NAME.copying              removed
//! ```
//!
//! Nothing in a volume is removed or replaced: it may be of a container that has used the volume meanwhile. A
//! copy that was not finished is only beside it, and is removed before the next one.

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use crisp_operation::record::{Durability, Record};
use crisp_operation::{Cancel, record};
use rustix::fs::{CWD, Dir, FlockOperation, Mode, OFlags, RenameFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::image_volume;
use crate::cause::Cause;
use crate::container::config::Mount;
use crate::layout;
use crate::spec::copy_up;

/// The pause between two looks at the lock of another container's copy.
const PAUSE: Duration = Duration::from_millis(20);

/// The volume to which a finished copy belongs. A later one of the same name is another one.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Moving {
    inode: u64,
    /// Nanoseconds since 1970; None where the file system does not know.
    made_at: Option<u64>,
}

impl Record for Moving {
    const KIND: &'static str = "record of a volume's copy";
}

impl Moving {
    fn to(volume: &File) -> io::Result<Self> {
        let there = volume.metadata()?;
        let since = there.created().ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok());
        let made_at = since.and_then(|since| u64::try_from(since.as_nanos()).ok());
        Ok(Self { inode: there.ino(), made_at })
    }
}

/// Whether a mount's folder waits for files. A folder that cannot be read does not: its mount reports the error.
pub(super) fn is_wanted(mount: &Mount) -> bool {
    let path = &mount.host_path;
    is_empty(path).unwrap_or(false) || copy_up::draft(path).symlink_metadata().is_ok()
}

/// Copies the files of the image at the mount point. Waits while another container does the same.
///
/// # Errors
/// A file cannot be read, written or moved, `cancel` is set, or the disk would be full.
pub(super) fn fill(view: &OwnedFd, mount: &Mount, cancel: &Cancel) -> Result<(), Cause> {
    let path = &mount.host_path;
    let volume = open(path)?;
    let draft = Draft::lock(path, cancel)?;
    if draft.is_moving_to(&volume)? {
        return draft.finish(path, &volume);
    }
    draft.clear()?;
    if !is_empty(path).map_err(Cause::file(path))? {
        return draft.remove();
    }
    let copied = draft.require_same_mount(path, &volume).and_then(|()| draft.copy(view, mount, cancel));
    match copied {
        // A container may have written meanwhile.
        Ok(true) if is_empty(path).map_err(Cause::file(path))? => {
            let moving = Moving::to(&volume).map_err(Cause::file(path))?;
            record::write(&draft.moving(), &moving, Durability::PowerCut)?;
            draft.finish(path, &volume)
        }
        Ok(_) => draft.remove(),
        Err(error) => {
            // The next copy removes what is left.
            let _ = draft.remove();
            Err(error)
        }
    }
}

/// The folder beside a volume in which its copy is made. It is locked until this is dropped.
struct Draft {
    path: PathBuf,
    folder: File,
}

impl Draft {
    /// Makes it or waits for the one of another container. The volume itself is no place for a lock: containers
    /// can lock it too.
    fn lock(volume: &Path, cancel: &Cancel) -> Result<Self, Cause> {
        let path = copy_up::draft(volume);
        loop {
            cancel.check()?;
            record::private_folder(&path).map_err(Cause::file(&path))?;
            let Some(folder) = open_there(&path)? else { continue };
            match rustix::fs::flock(&folder, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) if is_at(&folder, &path) => return Ok(Self { path, folder }),
                // The other container has removed it when it was done.
                Ok(()) => {}
                Err(Errno::WOULDBLOCK | Errno::INTR) => std::thread::park_timeout(PAUSE),
                Err(errno) => return Err(Cause::file(path)(errno.into())),
            }
        }
    }

    fn files(&self) -> PathBuf {
        layout::copied_files(&self.path)
    }

    fn moving(&self) -> PathBuf {
        layout::copy_moving(&self.path)
    }

    /// Whether an earlier server has begun to move its files to this volume.
    fn is_moving_to(&self, volume: &File) -> Result<bool, Cause> {
        let recorded: Moving = match record::read(&self.moving()) {
            Ok(recorded) => recorded,
            Err(error) if error.is_missing() || error.is_unusable() => return Ok(false),
            Err(error) => return Err(error.into()),
        };
        let to = Moving::to(volume).map_err(Cause::file(self.moving()))?;
        Ok(recorded == to && open_there(&self.files())?.is_some())
    }

    /// A rename from one mount to another is refused. The kernel looks at that before it looks at the names.
    fn require_same_mount(&self, path: &Path, volume: &File) -> Result<(), Cause> {
        match rustix::fs::renameat_with(&self.folder, "none", volume, "none", RenameFlags::NOREPLACE) {
            Err(Errno::XDEV) => {
                let why = "it is a mount of its own, into which no files of the image can be moved: mount it with nocopy";
                Err(Cause::file(path)(io::Error::new(io::ErrorKind::CrossesDevices, why)))
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Copies the files of the image and flushes them. Returns false when the image has no folder there.
    fn copy(&self, view: &OwnedFd, mount: &Mount, cancel: &Cancel) -> Result<bool, Cause> {
        let files = self.files();
        record::private_folder(&files).map_err(Cause::file(&files))?;
        let is_copied = image_volume::copy_whole(view, &files, &mount.container_path, cancel)?;
        if is_copied {
            // Otherwise a power cut could leave files without content in the volume, which is not empty then.
            rustix::fs::syncfs(&self.folder).map_err(|errno| Cause::file(&files)(errno.into()))?;
        }
        Ok(is_copied)
    }

    /// Moves the files into the volume, and removes the rest.
    fn finish(&self, path: &Path, volume: &File) -> Result<(), Cause> {
        let moved = self.move_all(path, volume);
        if moved.is_err() && is_empty(path).unwrap_or(false) {
            // The next container makes a new copy.
            let _ = self.remove();
        }
        moved.map_err(Cause::file(path))?;
        self.remove()
    }

    /// The folder gets its owner and mode before its first file. What a container has made meanwhile stays.
    fn move_all(&self, path: &Path, volume: &File) -> io::Result<()> {
        let files = File::open(self.files())?;
        if is_empty(path)? {
            image_volume::like(&files, volume, &rustix::fs::fstat(&files)?)?;
        }
        let entries = Dir::read_from(&files)?.collect::<Result<Vec<_>, _>>()?;
        let names = entries.iter().map(rustix::fs::DirEntry::file_name);
        for name in names.filter(|name| !matches!(name.to_bytes(), b"." | b"..")) {
            match rustix::fs::renameat_with(&files, name, volume, name, RenameFlags::NOREPLACE) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        volume.sync_all()
    }

    /// Removes the remains of a copy that was not finished.
    fn clear(&self) -> Result<(), Cause> {
        // The record first: without its files it must not be taken for one that continues.
        record::remove_file(&self.moving()).map_err(Cause::file(self.moving()))?;
        record::remove_folder(&self.files()).map_err(Cause::file(self.files()))
    }

    fn remove(&self) -> Result<(), Cause> {
        self.clear()?;
        record::remove_folder(&self.path).map_err(Cause::file(&self.path))
    }
}

fn open(path: &Path) -> Result<File, Cause> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = rustix::fs::open(path, flags, Mode::empty());
    folder.map(File::from).map_err(|errno| Cause::file(path)(errno.into()))
}

/// Follows no link. None when it does not exist.
fn open_there(path: &Path) -> Result<Option<File>, Cause> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::openat(CWD, path, flags, Mode::empty()) {
        Ok(folder) => Ok(Some(folder.into())),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(Cause::file(path)(errno.into())),
    }
}

fn is_at(folder: &File, path: &Path) -> bool {
    let of = |there: &fs::Metadata| (there.dev(), there.ino());
    matches!((folder.metadata(), path.symlink_metadata()), (Ok(one), Ok(other)) if of(&one) == of(&other))
}

fn is_empty(path: &Path) -> io::Result<bool> {
    Ok(fs::read_dir(path)?.next().is_none())
}

#[cfg(test)]
mod tests;
