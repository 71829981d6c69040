//! Symbolic and hard links.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, FileType};
use rustix::io::Errno;

use super::attributes::{self, On};
use super::path::normalise;
use super::place::Unpacker;
use super::tar::Entry;
use super::{UnpackFault, lossy};

impl Unpacker<'_> {
    /// Makes a symbolic link. Its target is kept as written: only a process inside follows it.
    pub(super) fn symlink(
        &mut self,
        folder: &OwnedFd,
        name: &[u8],
        entry: &Entry,
    ) -> Result<(), UnpackFault> {
        self.create(folder, name, || rustix::fs::symlinkat(entry.link.as_slice(), folder, name))
            .map_err(UnpackFault::at("make the link"))?;
        // Up to here ext4 keeps a target in the inode.
        if entry.link.len() >= 60 {
            self.recount = true;
        }
        let on = On::Named(folder.as_fd(), name);
        attributes::apply(on, entry, Some(entry.mode))?;
        attributes::touch(on, entry.modified)
    }

    /// Makes another name for something that this layer has.
    pub(super) fn hard_link(
        &mut self,
        folder: &OwnedFd,
        path: &[u8],
        name: &[u8],
        entry: &Entry,
    ) -> Result<(), UnpackFault> {
        let mut target = Vec::new();
        let shown = || lossy(&entry.link);
        normalise(&entry.link, &mut target).map_err(|_| UnpackFault::LinkDotDot(shown()))?;
        if target == path {
            return Ok(());
        }
        let (from, from_name) = match self.tree.existing(&target) {
            Ok(found) if !target.is_empty() => found,
            Ok(_) => return Err(UnpackFault::LinkToDirectory(shown())),
            Err(_) => return Err(UnpackFault::LinkTarget(shown())),
        };
        let found = rustix::fs::statat(&from, from_name, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|_| UnpackFault::LinkTarget(shown()))?;
        if FileType::from_raw_mode(found.st_mode) == FileType::Directory {
            return Err(UnpackFault::LinkToDirectory(shown()));
        }
        // Another name of the same file, reached over a link: making way for it would lose it.
        if let Ok(there) = rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)
            && (there.st_dev, there.st_ino) == (found.st_dev, found.st_ino)
        {
            return Ok(());
        }
        let link = || rustix::fs::linkat(&from, from_name, folder, name, AtFlags::empty());
        self.create(folder, name, link).map_err(|e| match e {
            Errno::NOENT => UnpackFault::LinkTarget(shown()),
            e => UnpackFault::at("make the hard link")(e),
        })?;
        self.inodes -= 1;
        Ok(())
    }
}
