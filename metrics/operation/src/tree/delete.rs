//! Deleting a tree.

use std::ffi::{CStr, CString};
use std::fs;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType};
use rustix::io::Errno;

use super::cursor::{Cursor, is_dot, open_root};

/// How many names of directories are kept in memory before they are deleted, fewer in each deeper directory:
/// a container may fill each of a million levels with long names.
const BATCH: usize = 1024;

/// Deletes the file or folder at `path`, with everything in it, and never follows a link. A missing path is
/// not an error.
///
/// # Errors
/// The kernel's error for the first file or directory that it does not delete; everything deleted before is
/// gone.
pub fn delete(path: &Path) -> io::Result<()> {
    let root = match open_root(path) {
        Ok(root) => root,
        Err(Errno::NOENT) => return Ok(()),
        Err(Errno::NOTDIR | Errno::LOOP) => return fs::remove_file(path),
        Err(e) => return Err(e.into()),
    };
    let mut cursor = Cursor::at(root);
    let mut pending = vec![delete_files(cursor.directory(), BATCH)?];
    loop {
        if let Some(name) = pending.last_mut().and_then(Vec::pop) {
            match cursor.descend(name) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                entered => entered?,
            }
            pending.push(delete_files(cursor.directory(), batch(pending.len()))?);
            continue;
        }
        // A directory may contain more directories than fit in one batch.
        let more = delete_files(cursor.directory(), batch(pending.len()))?;
        if !more.is_empty() {
            pending.pop();
            pending.push(more);
            continue;
        }
        pending.pop();
        match cursor.ascend()? {
            Some(name) => unlink(cursor.directory(), &name, AtFlags::REMOVEDIR)?,
            None => return fs::remove_dir(path),
        }
    }
}

fn batch(depth: usize) -> usize {
    (BATCH / depth.max(1)).max(1)
}

/// Deletes the files of a directory and returns the names of the directories in it, one batch at most.
fn delete_files(directory: BorrowedFd<'_>, batch: usize) -> Result<Vec<CString>, Errno> {
    let mut directories = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        if is_dot(name) {
            continue;
        }
        if entry.file_type() != FileType::Directory {
            match unlink(directory, name, AtFlags::empty()) {
                Err(Errno::ISDIR) => {}
                done => {
                    done?;
                    continue;
                }
            }
        }
        directories.push(name.to_owned());
        if directories.len() == batch {
            break;
        }
    }
    Ok(directories)
}

/// Deletes one entry. A missing entry is not an error.
fn unlink(directory: BorrowedFd<'_>, name: &CStr, flags: AtFlags) -> Result<(), Errno> {
    match rustix::fs::unlinkat(directory, name, flags) {
        Err(Errno::NOENT) => Ok(()),
        done => done,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::tree::cursor::open_beneath;
    use rustix::fs::Mode;

    /// A depth at which descriptors, the stack and the length of a path would not suffice.
    #[test]
    fn a_tree_of_any_depth_is_deleted() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("root");
        fs::create_dir(&root).unwrap();
        let mut directory = open_root(&root).unwrap();
        for _ in 0..5000 {
            rustix::fs::mkdirat(&directory, "d", Mode::RWXU).unwrap();
            directory = open_beneath(&directory, "d").unwrap();
        }
        drop(directory);
        crate::record::remove_folder(&root).unwrap();
        assert!(!root.exists());
    }

    /// A directory far down takes several batches.
    #[test]
    fn a_deep_tree_that_is_wide_at_its_end_is_deleted() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("root");
        let end = root.join("d/".repeat(600));
        for n in 0..7 {
            fs::create_dir_all(end.join(format!("{n}/x"))).unwrap();
            fs::write(end.join(format!("{n}/x/file")), "").unwrap();
        }
        delete(&root).unwrap();
        assert!(!root.exists());
    }

    #[test]
    fn more_directories_than_a_batch_are_deleted_and_links_are_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let kept = folder.path().join("kept");
        fs::write(&kept, "").unwrap();
        let root = folder.path().join("root");
        for n in 0..2 * BATCH + 1 {
            fs::create_dir_all(root.join(format!("{n}/x"))).unwrap();
        }
        symlink(folder.path(), root.join("link")).unwrap();
        delete(&root).unwrap();
        assert!(!root.exists() && kept.exists());
        symlink(&kept, &root).unwrap();
        delete(&root).unwrap();
        assert!(root.symlink_metadata().is_err() && kept.exists());
        delete(&root).unwrap();
    }
}
