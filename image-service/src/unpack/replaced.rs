//! Removes an entry that another one replaces.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use crisp_operation::tree::open_root;
use rustix::fs::{AtFlags, CWD, Mode};
use rustix::io::Errno;

use super::UnpackFault;

/// The folder in which replaced directories wait for the deletion of all temporary files: they may be too
/// large to delete now.
pub(super) struct Replaced {
    path: PathBuf,
    folder: Option<OwnedFd>,
    count: u64,
}

impl Replaced {
    /// Uses the folder `path`, which is made when it is needed.
    pub(super) fn to(path: &Path) -> Self {
        Self { path: path.to_owned(), folder: None, count: 0 }
    }

    /// Removes the file at `name` from the tree.
    pub(super) fn remove(&mut self, folder: &OwnedFd, name: &[u8]) -> Result<(), UnpackFault> {
        let failed = || UnpackFault::at("replace what is there");
        match rustix::fs::unlinkat(folder, name, AtFlags::empty()) {
            Err(Errno::ISDIR | Errno::PERM) => {}
            done => return done.map_err(failed()),
        }
        // An empty directory is removed at once.
        match rustix::fs::unlinkat(folder, name, AtFlags::REMOVEDIR) {
            Err(Errno::NOTEMPTY | Errno::EXIST) => {}
            done => return done.map_err(failed()),
        }
        let aside = self.open().map_err(failed())?;
        rustix::fs::renameat(folder, name, &aside, self.count.to_string()).map_err(failed())?;
        self.count += 1;
        self.folder = Some(aside);
        Ok(())
    }

    fn open(&mut self) -> Result<OwnedFd, Errno> {
        match self.folder.take() {
            Some(folder) => Ok(folder),
            None => {
                rustix::fs::mkdirat(CWD, &self.path, Mode::RWXU)?;
                open_root(&self.path)
            }
        }
    }
}
