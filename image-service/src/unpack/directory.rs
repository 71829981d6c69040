//! Directories in an archive.

use std::os::fd::AsFd;

use crisp_operation::tree::open_beneath;
use rustix::fs::{AtFlags, FileType, Mode};
use rustix::io::Errno;

use super::attributes::On;
use super::tar::{Entry, Kind};
use super::unpacker::{Destination, Directory, Unpacker};
use super::{UnpackFault, whiteout};

/// The bits that mkdir honours.
const MKDIR_BITS: u32 = 0o1777;
const SET_GROUP_ID: u32 = 0o2000;

impl Unpacker<'_> {
    /// The layer's own root.
    pub(super) fn root(&mut self, entry: &Entry) -> Result<(), UnpackFault> {
        if entry.kind != Kind::Directory {
            return Err(UnpackFault::RootNotDirectory);
        }
        let root = self.folders.root_descriptor();
        self.apply(On::Open(root.as_fd()), entry, entry.mode & !SET_GROUP_ID, None)?;
        self.remember(&[], entry)
    }

    pub(super) fn directory(
        &mut self,
        at: Destination<'_>,
        path: &[u8],
        entry: &Entry,
    ) -> Result<(), UnpackFault> {
        let mode = entry.mode & MKDIR_BITS;
        let now = match rustix::fs::mkdirat(at.folder, at.name, Mode::from_raw_mode(mode)) {
            Ok(()) => {
                self.totals.inode()?;
                Some(mode & !self.umask)
            }
            Err(Errno::EXIST) => self.directory_over(at)?,
            Err(e) => return Err(UnpackFault::at("make it")(e)),
        };
        let mode = entry.mode & !SET_GROUP_ID;
        if entry.xattrs.is_empty() {
            self.apply(at.named(), entry, mode, now)?;
        } else {
            let directory = open_beneath(at.folder, at.name).map_err(UnpackFault::at("open it"))?;
            self.apply(On::Open(directory.as_fd()), entry, mode, now)?;
        }
        self.remember(path, entry)
    }

    fn remember(&mut self, path: &[u8], entry: &Entry) -> Result<(), UnpackFault> {
        self.totals.directory(path)?;
        let mode = (entry.mode & SET_GROUP_ID != 0).then_some(entry.mode);
        self.directories.push(Directory { path: path.to_vec(), modified: entry.modified, mode });
        Ok(())
    }

    /// Removes another file at the path, unless a directory is there already. Returns the mode, if it is
    /// known.
    fn directory_over(&mut self, at: Destination<'_>) -> Result<Option<u32>, UnpackFault> {
        let Destination { folder, name, .. } = at;
        let found = rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(UnpackFault::at("look at what is there"))?;
        if FileType::from_raw_mode(found.st_mode) == FileType::Directory {
            return Ok(None);
        }
        self.folders.forget();
        self.totals.remeasure = true;
        self.totals.inode()?;
        rustix::fs::unlinkat(folder, name, AtFlags::empty())
            .and_then(|()| rustix::fs::mkdirat(folder, name, Mode::RWXU))
            .map_err(UnpackFault::at("replace what is there"))?;
        if whiteout::is_whiteout(&found) {
            whiteout::set_opaque(open_beneath(folder, name).map_err(UnpackFault::at("open it"))?)?;
        }
        Ok(None)
    }
}
