//! `hostPath`: checks the file at the path, or makes it.

use std::fs;
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _};
use std::path::{Path, PathBuf};

use super::super::manifest::HostPathKind;
use super::VolumeError;

/// Checks the path, or makes it if it is missing.
///
/// # Errors
/// [`VolumeError::HostPath`], [`VolumeError::Make`].
pub fn check(name: &str, path: &Path, kind: HostPathKind) -> Result<PathBuf, VolumeError> {
    let made = |source| VolumeError::Make { name: name.to_owned(), path: path.to_owned(), source };
    if kind == HostPathKind::Any {
        return Ok(path.to_owned());
    }
    let there = fs::metadata(path).map(|m| m.file_type());
    let is = |what: fn(&fs::FileType) -> bool| there.as_ref().is_ok_and(what);
    let (fits, wanted) = match kind {
        HostPathKind::Any => (true, ""),
        HostPathKind::DirectoryOrCreate => {
            fs::DirBuilder::new().recursive(true).mode(0o755).create(path).map_err(made)?;
            (true, "")
        }
        HostPathKind::FileOrCreate => {
            if there.is_err() {
                fs::OpenOptions::new().append(true).create(true).open(path).map_err(made)?;
            }
            (fs::metadata(path).is_ok_and(|m| m.is_file()), "file")
        }
        HostPathKind::Directory => (is(fs::FileType::is_dir), "directory"),
        HostPathKind::File => (is(fs::FileType::is_file), "file"),
        HostPathKind::Socket => (is(|t| t.is_socket()), "socket"),
        HostPathKind::CharDevice => (is(|t| t.is_char_device()), "character device"),
        HostPathKind::BlockDevice => (is(|t| t.is_block_device()), "block device"),
    };
    if !fits {
        return Err(VolumeError::HostPath { name: name.to_owned(), path: path.to_owned(), wanted });
    }
    Ok(path.to_owned())
}
