//! Removes folders that contain or contained volumes.

use std::io;
use std::path::Path;

use crisp_operation::record;
use rustix::mount::{UnmountFlags, unmount};

use super::mount_table;

/// Removes a folder that contains or contained volumes. Mounts in it are detached first, and their content is
/// kept: a privileged container can mount folders of the host into a volume.
///
/// # Errors
/// A mount cannot be detached, and then nothing is deleted; or a file cannot be deleted.
pub fn remove_folder(folder: &Path) -> io::Result<()> {
    let folder = match folder.canonicalize() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        folder => folder?,
    };
    // In reverse order: a later mount may be on top of an earlier one.
    for path in mount_table::points_below(&folder)?.iter().rev() {
        unmount(path, UnmountFlags::DETACH)?;
    }
    record::remove_folder(&folder)
}
