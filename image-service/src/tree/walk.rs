//! Visits everything in a tree.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use crisp_operation::tree::{Cursor, is_dot, open_root};
use rustix::fs::{AtFlags, Dir, FileType, Stat};

/// An entry of a tree. The tree's root comes first, as `.` in itself with an empty path.
pub(crate) struct Found<'a> {
    pub folder: BorrowedFd<'a>,
    pub name: &'a CStr,
    /// From the root, without a slash at the start.
    pub path: &'a [u8],
    pub stat: &'a Stat,
}

/// Calls `visit` for the root and everything below it, in no particular order.
pub(super) fn walk(root: &Path, visit: impl FnMut(Found<'_>) -> io::Result<()>) -> io::Result<()> {
    walk_in(Order::Any, root, visit)
}

/// The same in an order that only depends on the names. The content of a directory comes after it.
pub(crate) fn walk_sorted(root: &Path, visit: impl FnMut(Found<'_>) -> io::Result<()>) -> io::Result<()> {
    walk_in(Order::Sorted, root, visit)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    Any,
    Sorted,
}

fn walk_in(order: Order, root: &Path, mut visit: impl FnMut(Found<'_>) -> io::Result<()>) -> io::Result<()> {
    let root = open_root(root)?;
    let stat = rustix::fs::fstat(&root)?;
    visit(Found { folder: root.as_fd(), name: c".", path: &[], stat: &stat })?;
    let mut cursor = Cursor::at(root);
    let mut path = Vec::new();
    let mut pending = vec![visit_directory(order, cursor.directory(), &mut path, &mut visit)?];
    while let Some(directories) = pending.last_mut() {
        if let Some(name) = directories.pop() {
            enter(&mut path, &name);
            cursor.descend(name)?;
            pending.push(visit_directory(order, cursor.directory(), &mut path, &mut visit)?);
        } else {
            pending.pop();
            if let Some(name) = cursor.ascend()? {
                leave(&mut path, &name);
            }
        }
    }
    Ok(())
}

/// Visits the entries of one directory and returns its subdirectories.
fn visit_directory(
    order: Order,
    directory: BorrowedFd<'_>,
    path: &mut Vec<u8>,
    visit: &mut impl FnMut(Found<'_>) -> io::Result<()>,
) -> io::Result<Vec<CString>> {
    let mut directories = Vec::new();
    let mut visit = |name: &CStr| -> io::Result<()> {
        if is_dot(name) {
            return Ok(());
        }
        let stat = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
        enter(path, name);
        visit(Found { folder: directory, name, path, stat: &stat })?;
        leave(path, name);
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            directories.push(name.to_owned());
        }
        Ok(())
    };
    let mut entries = Dir::read_from(directory)?;
    match order {
        // A directory may have millions of names, which would need gigabytes of memory.
        Order::Any => entries.try_for_each(|entry| visit(entry?.file_name()))?,
        Order::Sorted => {
            let names = entries.map(|entry| entry.map(|entry| entry.file_name().to_owned()));
            let mut names = names.collect::<Result<Vec<CString>, _>>()?;
            names.sort_unstable();
            names.iter().try_for_each(|name| visit(name))?;
        }
    }
    Ok(directories)
}

fn enter(path: &mut Vec<u8>, name: &CStr) {
    if !path.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(name.to_bytes());
}

fn leave(path: &mut Vec<u8>, name: &CStr) {
    path.truncate(path.len().saturating_sub(name.to_bytes().len() + 1));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The kernel gives the names of a directory in pieces: a file of the last one is removed while the first
    /// one is visited.
    #[test]
    fn names_are_not_collected_before_they_are_visited() {
        let folder = tempfile::tempdir().unwrap();
        for n in 0..3000 {
            std::fs::write(folder.path().join(format!("{n:0>250}")), "").unwrap();
        }
        let last = std::fs::read_dir(folder.path()).unwrap().last().unwrap().unwrap().path();
        let mut visited = 0;
        walk(folder.path(), |found| {
            visited += 1;
            if found.path.is_empty() {
                return Ok(());
            }
            match std::fs::remove_file(&last) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            }
        })
        .unwrap();
        assert_eq!(visited, 3000, "the root and all files but one");
    }
}
