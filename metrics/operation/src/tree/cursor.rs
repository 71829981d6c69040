//! A position in a tree.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::path::Arg;

const DIRECTORY: OFlags =
    OFlags::DIRECTORY.union(OFlags::RDONLY).union(OFlags::CLOEXEC).union(OFlags::NOFOLLOW);

/// Opens the root directory of a tree.
///
/// # Errors
/// The kernel's error; [`Errno::NOTDIR`] or [`Errno::LOOP`] for a link.
pub fn open_root(path: &Path) -> Result<OwnedFd, Errno> {
    rustix::fs::openat(CWD, path, DIRECTORY, Mode::empty())
}

/// Opens a directory directly in `folder`; a link is refused.
///
/// # Errors
/// The kernel's error.
pub fn open_beneath(folder: impl AsFd, name: impl Arg) -> Result<OwnedFd, Errno> {
    rustix::fs::openat(folder, name, DIRECTORY, Mode::empty())
}

/// One directory of a tree, and the way back to its root. It holds a single descriptor however deep it is.
#[derive(Debug)]
pub struct Cursor {
    current: OwnedFd,
    above: Vec<Level>,
}

#[derive(Debug)]
struct Level {
    /// The name of the directory that was entered from here.
    name: CString,
    /// Device and inode, to notice when the way back leads to another directory.
    identity: (u64, u64),
}

impl Cursor {
    #[must_use]
    pub fn at(root: OwnedFd) -> Self {
        Self { current: root, above: Vec::new() }
    }

    /// The current directory.
    #[must_use]
    pub fn directory(&self) -> BorrowedFd<'_> {
        self.current.as_fd()
    }

    /// Enters a directory in the current one.
    ///
    /// # Errors
    /// The kernel's error; the cursor has not moved.
    pub fn descend(&mut self, name: CString) -> io::Result<()> {
        let next = open_beneath(&self.current, name.as_c_str())?;
        self.above.push(Level { identity: identity(&self.current)?, name });
        self.current = next;
        Ok(())
    }

    /// Returns to the directory above and gives the name of the directory that it left; None at the root.
    ///
    /// # Errors
    /// The kernel's error, or one that says that the directory was moved away.
    pub fn ascend(&mut self) -> io::Result<Option<CString>> {
        let Some(level) = self.above.pop() else { return Ok(None) };
        let above = open_beneath(&self.current, c"..")?;
        if identity(&above)? != level.identity {
            return Err(io::Error::other("a directory was moved away while its tree was read"));
        }
        self.current = above;
        Ok(Some(level.name))
    }
}

fn identity(directory: &OwnedFd) -> io::Result<(u64, u64)> {
    let stat = rustix::fs::fstat(directory)?;
    Ok((stat.st_dev, stat.st_ino))
}

/// Whether this is one of the entries `.` and `..`.
#[must_use]
pub fn is_dot(name: &CStr) -> bool {
    matches!(name.to_bytes(), b"." | b"..")
}
