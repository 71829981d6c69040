//! Unpacks one entry of an archive.

use std::io::BufRead;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode};
use rustix::io::Errno;

use super::attributes::{self, On};
use super::folders::Folders;
use super::path::{normalise, split};
use super::replaced::Replaced;
use super::space::Space;
use super::tar::{Entry, Kind, TarReader, Time};
use super::totals::Totals;
use super::whiteout::{self, EntryKind};
use super::{Limits, UnpackFault};
use crate::tree::Attributes;

const CHARACTER_DEVICE: u32 = 0o020_000;

/// One archive being unpacked.
pub(super) struct Unpacker<'a> {
    pub(super) folders: Folders,
    pub(super) totals: Totals<'a>,
    pub(super) replaced: Replaced,
    pub(super) root: PathBuf,
    pub(super) umask: u32,
    /// The current entry's normalised path.
    path: Vec<u8>,
    /// In the archive's order.
    pub(super) directories: Vec<Directory>,
    pub(super) opaque: Vec<Vec<u8>>,
    pub(super) opaque_root: bool,
}

/// The attributes of a directory that are set when it is complete.
#[derive(Default)]
pub(super) struct Directory {
    pub path: Vec<u8>,
    pub modified: Time,
    /// The mode, if it has the set-group-id bit: new files in such a directory would inherit its group.
    pub mode: Option<u32>,
}

/// The destination of an entry.
#[derive(Clone, Copy)]
pub(super) struct Destination<'p> {
    pub folder: &'p OwnedFd,
    /// The folder's path, and the name in it.
    pub parent: &'p [u8],
    pub name: &'p [u8],
}

impl Destination<'_> {
    pub(super) fn named(&self) -> On<'_> {
        On::Named(self.folder.as_fd(), self.name)
    }
}

impl<'a> Unpacker<'a> {
    pub fn new(root: &Path, replaced: &Path, limits: &'a Limits) -> Result<Self, UnpackFault> {
        let folders = Folders::open(root)?;
        let mode = Mode::from_raw_mode(0o755);
        rustix::fs::fchmod(folders.root(), mode).map_err(UnpackFault::at("set the root's mode"))?;
        let space = Space::of(folders.root_descriptor())?;
        Ok(Self {
            folders,
            totals: Totals::new(limits, space),
            replaced: Replaced::to(replaced),
            root: root.to_owned(),
            umask: attributes::umask(),
            path: Vec::new(),
            directories: vec![Directory::default()],
            opaque: Vec::new(),
            opaque_root: false,
        })
    }

    /// Unpacks `entry`; its content is read from `archive`.
    pub fn unpack<R: BufRead>(
        &mut self,
        entry: &Entry,
        archive: &mut TarReader<'_, R>,
    ) -> Result<(), UnpackFault> {
        self.totals.entry()?;
        let mut path = std::mem::take(&mut self.path);
        let limit = self.totals.limits.path;
        let unpacked = match normalise(&entry.path, &mut path) {
            Err(_) => Err(UnpackFault::DotDot),
            Ok(()) if path.len() > limit => Err(UnpackFault::PathTooLong { length: path.len(), limit }),
            Ok(()) if path.is_empty() => self.root(entry),
            Ok(()) => self.unpack_at(&path, entry, archive),
        };
        self.path = path;
        unpacked
    }

    fn unpack_at<R: BufRead>(
        &mut self,
        path: &[u8],
        entry: &Entry,
        archive: &mut TarReader<'_, R>,
    ) -> Result<(), UnpackFault> {
        let (parent, name) = split(path);
        let kind = whiteout::entry_kind(name)?;
        if kind == EntryKind::Bookkeeping || whiteout::in_bookkeeping(parent) {
            return Ok(());
        }
        let folder = self.folders.folder(parent, &mut self.totals)?;
        let at = Destination { folder: &folder, parent, name };
        match kind {
            EntryKind::Bookkeeping => Ok(()),
            EntryKind::Opaque => self.opaque(parent, &folder),
            EntryKind::Whiteout(name) => self.whiteout(Destination { name, ..at }, entry),
            EntryKind::Entry => match entry.kind {
                Kind::File => self.file(at, entry, archive),
                Kind::Directory => self.directory(at, path, entry),
                Kind::Symlink => self.symlink(at, entry),
                Kind::HardLink => self.hard_link(at, path, entry),
                Kind::CharDevice => self.special(at, entry, FileType::CharacterDevice),
                Kind::BlockDevice => self.special(at, entry, FileType::BlockDevice),
                Kind::Fifo => self.special(at, entry, FileType::Fifo),
            },
        }
    }

    fn opaque(&mut self, path: &[u8], folder: &OwnedFd) -> Result<(), UnpackFault> {
        if path.is_empty() {
            // The kernel ignores the mark there; the layer's record has it.
            self.opaque_root = true;
        } else {
            whiteout::set_opaque(folder)?;
        }
        self.totals.directory(path)?;
        self.opaque.push(path.to_vec());
        Ok(())
    }

    fn whiteout(&mut self, at: Destination<'_>, entry: &Entry) -> Result<(), UnpackFault> {
        self.totals.inode()?;
        if whiteout::make_whiteout(at.folder, at.name)? {
            attributes::touch(at.named(), entry.modified)?;
            let attributes = Attributes { mode: CHARACTER_DEVICE, ..Attributes::default() };
            self.totals.name(at.parent, at.name, &attributes);
        } else {
            self.totals.remeasure = true;
        }
        Ok(())
    }

    /// Sets owner, mode and extended attributes; returns the checksum of the latter.
    pub(super) fn apply(
        &mut self,
        on: On<'_>,
        entry: &Entry,
        mode: u32,
        mode_now: Option<u32>,
    ) -> Result<u32, UnpackFault> {
        let applied = attributes::apply(on, entry, mode, mode_now)?;
        self.totals.remeasure |= !applied.as_written;
        Ok(applied.xattrs)
    }

    /// Creates an entry; an existing file of that name is removed first.
    pub(super) fn create<T>(
        &mut self,
        at: Destination<'_>,
        doing: &'static str,
        create: impl Fn() -> Result<T, Errno>,
    ) -> Result<T, UnpackFault> {
        self.totals.inode()?;
        match create() {
            Err(Errno::EXIST) => {}
            done => return done.map_err(UnpackFault::at(doing)),
        }
        self.totals.remeasure = true;
        self.folders.forget();
        self.replaced.remove(at.folder, at.name)?;
        create().map_err(UnpackFault::at(doing))
    }
}
