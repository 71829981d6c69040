//! Symbolic and hard links.

use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, FileType};
use rustix::io::Errno;

use super::path::normalise;
use super::tar::Entry;
use super::unpacker::{Destination, Unpacker};
use super::{UnpackFault, attributes, lossy};
use crate::tree::Attributes;

/// Longer targets need a separate block on ext4.
const IN_INODE: usize = 60;
const SYMLINK: u32 = 0o120_000;

impl Unpacker<'_> {
    /// Makes a symbolic link. Its target is kept unchanged: only a process in the container follows it.
    pub(super) fn symlink(&mut self, at: Destination<'_>, entry: &Entry) -> Result<(), UnpackFault> {
        let target = entry.link.as_slice();
        self.totals.written(target.len() as u64)?;
        self.create(at, "make the link", || rustix::fs::symlinkat(target, at.folder, at.name))?;
        if target.len() >= IN_INODE {
            let stat = rustix::fs::statat(at.folder, at.name, AtFlags::SYMLINK_NOFOLLOW)
                .map_err(UnpackFault::at("look at the link"))?;
            self.totals.bytes += u64::try_from(stat.st_blocks).unwrap_or_default() * 512;
        }
        let xattrs = self.apply(at.named(), entry, entry.mode, Some(entry.mode))?;
        attributes::touch(at.named(), entry.modified)?;
        let (uid, gid) = (entry.uid, entry.gid);
        self.totals.name(
            at.parent,
            at.name,
            &Attributes { mode: SYMLINK, uid, gid, target, ..Attributes::default() },
        );
        if xattrs != 0 {
            self.totals.checksum.add_content(0, xattrs);
        }
        Ok(())
    }

    /// Makes another name for a file of this layer.
    pub(super) fn hard_link(
        &mut self,
        at: Destination<'_>,
        path: &[u8],
        entry: &Entry,
    ) -> Result<(), UnpackFault> {
        let mut target = Vec::new();
        let shown = || lossy(&entry.link);
        normalise(&entry.link, &mut target).map_err(|_| UnpackFault::LinkDotDot(shown()))?;
        if target == path {
            return Ok(());
        }
        let (from, from_name) = match self.folders.existing(&target) {
            Ok(found) if !target.is_empty() => found,
            Ok(_) => return Err(UnpackFault::LinkToDirectory(shown())),
            Err(_) => return Err(UnpackFault::LinkTarget(shown())),
        };
        let found = rustix::fs::statat(&from, from_name, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|_| UnpackFault::LinkTarget(shown()))?;
        if FileType::from_raw_mode(found.st_mode) == FileType::Directory {
            return Err(UnpackFault::LinkToDirectory(shown()));
        }
        // Another name of the same file, reached through a link: replacing it would lose the file.
        if let Ok(there) = rustix::fs::statat(at.folder, at.name, AtFlags::SYMLINK_NOFOLLOW)
            && (there.st_dev, there.st_ino) == (found.st_dev, found.st_ino)
        {
            return Ok(());
        }
        self.link(at, &from, from_name, &target, shown)?;
        let link = match FileType::from_raw_mode(found.st_mode) {
            FileType::Symlink => rustix::fs::readlinkat(at.folder, at.name, Vec::new())
                .map_err(UnpackFault::at("read the link"))?
                .into_bytes(),
            _ => Vec::new(),
        };
        let attributes = Attributes {
            mode: found.st_mode,
            uid: found.st_uid,
            gid: found.st_gid,
            size: u64::try_from(found.st_size).unwrap_or_default(),
            device: found.st_rdev,
            target: &link,
        };
        self.totals.name(at.parent, at.name, &attributes);
        Ok(())
    }

    fn link(
        &mut self,
        at: Destination<'_>,
        from: &OwnedFd,
        from_name: &[u8],
        target: &[u8],
        shown: impl Fn() -> String,
    ) -> Result<(), UnpackFault> {
        let failed = || UnpackFault::at("make the hard link");
        match rustix::fs::linkat(from, from_name, at.folder, at.name, AtFlags::empty()) {
            Err(Errno::EXIST) => {}
            done => return done.map_err(failed()),
        }
        self.totals.remeasure = true;
        self.folders.forget();
        self.replaced.remove(at.folder, at.name)?;
        // The target may have been inside the replaced file.
        let (from, from_name) =
            self.folders.existing(target).map_err(|_| UnpackFault::LinkTarget(shown()))?;
        match rustix::fs::linkat(&from, from_name, at.folder, at.name, AtFlags::empty()) {
            Err(Errno::NOENT) => Err(UnpackFault::LinkTarget(shown())),
            done => done.map_err(failed()),
        }
    }
}
