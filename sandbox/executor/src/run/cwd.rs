//! Enters the working directory after the switch of root, and verifies that it is inside the root.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::process::{fchdir, getcwd};

use super::error::{Quoted, Stage, StageError};
use crate::in_root::{self, Kind};

/// Whether the folder could be entered with the rights before the change of user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Entered {
    Yes,
    /// Not by root (for example on a network file system that restricts root): tried again as the user.
    AsUser,
}

/// Makes `cwd` when it is missing.
pub(crate) fn make(root: BorrowedFd<'_>, cwd: &CStr) -> Result<(), StageError> {
    match in_root::find_or_make(root, cwd, Kind::Folder) {
        Ok(_) | Err(Errno::ACCESS) => Ok(()),
        Err(errno) => Err(explained(cwd, errno)),
    }
}

/// Changes to `cwd` of `root`, which is the process's root by now.
pub(crate) fn enter(root: BorrowedFd<'_>, cwd: &CStr) -> Result<Entered, StageError> {
    let entered = in_root::resolve(root, cwd, OFlags::PATH | OFlags::DIRECTORY)
        .and_then(|folder: OwnedFd| fchdir(folder.as_fd()));
    match entered {
        Ok(()) => prove(cwd).map(|()| Entered::Yes),
        Err(Errno::ACCESS) => Ok(Entered::AsUser),
        Err(errno) => Err(explained(cwd, errno)),
    }
}

/// The second try, with the user's rights.
pub(crate) fn enter_as_user(root: BorrowedFd<'_>, cwd: &CStr, uid: u32) -> Result<(), StageError> {
    match enter(root, cwd)? {
        Entered::Yes => Ok(()),
        Entered::AsUser => {
            let why = format!("{}: user {uid} may not enter it", Quoted(cwd));
            Err(StageError::explained(Stage::WorkingDirectory, Errno::ACCESS, why))
        }
    }
}

/// The kernel names a folder outside of the root without a leading slash.
fn prove(cwd: &CStr) -> Result<(), StageError> {
    match getcwd(Vec::new()) {
        Ok(path) if path.to_bytes().starts_with(b"/") => Ok(()),
        _ => {
            let why = format!("{}: lies outside the container's root", Quoted(cwd));
            Err(StageError::explained(Stage::WorkingDirectory, Errno::XDEV, why))
        }
    }
}

fn explained(cwd: &CStr, errno: Errno) -> StageError {
    let why = match errno {
        Errno::NOENT => "does not exist in the container",
        Errno::NOTDIR => "is not a folder in the image",
        Errno::LOOP => "leads through a link of /proc or in circles, and is refused",
        Errno::ROFS => "does not exist, and cannot be made on a read-only file system",
        errno => return StageError::new(Stage::WorkingDirectory, errno, Quoted(cwd)),
    };
    StageError::explained(Stage::WorkingDirectory, errno, format!("{}: {why}", Quoted(cwd)))
}
