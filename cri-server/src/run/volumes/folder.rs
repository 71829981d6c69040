//! Folders and file systems in memory, with the permissions of volumes.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use rustix::fs::{CWD, RenameFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount};

use super::labels::{self, Labels};
use crate::server::layout;

/// The group can read and write, and new files in it belong to the group.
const SHARED: u32 = 0o2770;

/// Makes a folder for all users, or for a group too. It appears with its final permissions: a server may die
/// between the creation of a folder and the change of its permissions.
pub fn make_whole(path: &Path, group: Option<u32>) -> io::Result<()> {
    make_labelled(path, group, &Labels::new())
}

/// The same, with labels.
pub fn make_labelled(path: &Path, group: Option<u32>, labels: &Labels) -> io::Result<()> {
    let beside = layout::unfinished(path);
    match fs::DirBuilder::new().create(&beside) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        made => made?,
    }
    set_owner(&beside, 0o777, group)?;
    labels::clear(&beside);
    if !labels.is_empty()
        && let Err(error) = labels::write(&beside, labels)
    {
        let _ = fs::remove_dir(&beside);
        return Err(error);
    }
    let renamed = rustix::fs::renameat_with(CWD, &beside, CWD, path, RenameFlags::NOREPLACE);
    if renamed.is_err() {
        let _ = fs::remove_dir(&beside);
    }
    match renamed {
        // Another call made it from the same folder meanwhile.
        Err(Errno::NOENT) if path.is_dir() => Err(Errno::EXIST.into()),
        renamed => Ok(renamed?),
    }
}

/// Gives the group access to an existing folder. Its content stays unchanged.
pub fn share(path: &Path, group: u32) -> io::Result<()> {
    let state = fs::metadata(path)?;
    if state.gid() != group || state.mode() & SHARED != SHARED {
        set_owner(path, state.mode() & 0o7777, Some(group))?;
    }
    Ok(())
}

/// Makes a folder for root only: its content has its own permissions.
pub fn private_folder(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

pub fn mount_memory(path: &Path, size: Option<u64>, mode: u32, group: Option<u32>) -> io::Result<()> {
    let mut data = format!("mode={:o}", shared(mode, group));
    data.extend(size.map(|bytes| format!(",size={bytes}")));
    data.extend(group.map(|group| format!(",gid={group}")));
    let data = std::ffi::CString::new(data)?;
    Ok(mount("tmpfs", path, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, Some(&*data))?)
}

/// A mount point is on another device than its parent folder.
pub fn is_mount(path: &Path) -> io::Result<bool> {
    let above = path.parent().unwrap_or(path);
    Ok(fs::metadata(path)?.dev() != fs::metadata(above)?.dev())
}

/// Sets the permissions of a folder and the group of the pod's volumes, which new files in it inherit.
pub fn set_owner(path: &Path, mode: u32, group: Option<u32>) -> io::Result<()> {
    if group.is_some() {
        std::os::unix::fs::chown(path, None, group)?;
    }
    fs::set_permissions(path, fs::Permissions::from_mode(shared(mode, group)))
}

fn shared(mode: u32, group: Option<u32>) -> u32 {
    if group.is_some() { mode | SHARED } else { mode }
}
