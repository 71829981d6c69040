//! Making way for an entry that replaces another.

use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

/// Opens a directory that is in `folder` itself.
pub(super) fn open_directory(folder: &OwnedFd, name: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    rustix::fs::openat(folder, name, flags, Mode::empty())
}

/// Removes whatever is at `name`, with everything in it.
pub(super) fn remove(folder: &OwnedFd, name: &[u8]) -> Result<(), Errno> {
    match rustix::fs::unlinkat(folder, name, AtFlags::empty()) {
        Err(Errno::ISDIR | Errno::PERM) => {}
        done => return done,
    }
    // Depth first, without recursion: an archive decides how deep it is.
    let mut stack = vec![(Rc::new(open_directory(folder, name)?), name.to_vec())];
    while let Some((directory, _)) = stack.last() {
        let directory = Rc::clone(directory);
        match remove_files(&directory)? {
            Some(inner) => stack.push((Rc::new(open_directory(&directory, &inner)?), inner)),
            None => {
                let Some((_, name)) = stack.pop() else { break };
                let parent = stack.last().map_or(folder.as_fd(), |(parent, _)| parent.as_fd());
                rustix::fs::unlinkat(parent, &*name, AtFlags::REMOVEDIR)?;
            }
        }
    }
    Ok(())
}

/// Removes the files of a directory until there is a directory in it, which it names.
fn remove_files(directory: &OwnedFd) -> Result<Option<Vec<u8>>, Errno> {
    for entry in rustix::fs::Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if matches!(name, b"." | b"..") {
            continue;
        }
        match rustix::fs::unlinkat(directory, name, AtFlags::empty()) {
            Err(Errno::ISDIR | Errno::PERM) => return Ok(Some(name.to_vec())),
            done => done?,
        }
    }
    Ok(None)
}
