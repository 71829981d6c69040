//! Putting one entry in its place.

use std::collections::HashSet;
use std::io::BufRead;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::attributes::{self, On};
use super::path::{normalise, split};
use super::remove::{open_directory, remove};
use super::tar::{Entry, Kind, TarReader, Time};
use super::tree::Tree;
use super::whiteout::{self, Meaning};
use super::{Limits, UnpackFault};

/// The bits that mkdir honours.
const MKDIR_BITS: u32 = 0o1777;

/// One archive being unpacked.
pub(super) struct Unpacker<'a> {
    pub(super) tree: Tree,
    pub(super) root: PathBuf,
    limits: &'a Limits,
    umask: u32,
    block: u64,
    /// The current entry's normalised path.
    path: Vec<u8>,
    /// Times of directories, set when nothing more is put into them. In the archive's order: one
    /// directory may have several paths, over links, and the last entry counts.
    pub(super) directories: Vec<(Vec<u8>, Time)>,
    pub(super) opaque: Vec<Vec<u8>>,
    /// Inodes of directories whose blocks are in `bytes`.
    pub(super) counted: HashSet<u64>,
    pub(super) entries: u64,
    content: u64,
    pub(super) bytes: u64,
    pub(super) inodes: u64,
    /// Something was replaced: the sums are no longer right.
    pub(super) recount: bool,
    pub(super) opaque_root: bool,
}

impl<'a> Unpacker<'a> {
    pub fn new(root: &Path, limits: &'a Limits) -> Result<Self, UnpackFault> {
        let tree = Tree::open(root)?;
        let mode = Mode::from_raw_mode(0o755);
        rustix::fs::fchmod(tree.root(), mode).map_err(UnpackFault::at("set the root's mode"))?;
        let block = rustix::fs::fstatvfs(tree.root()).map_err(UnpackFault::at("ask for the block size"))?;
        Ok(Self {
            tree,
            root: root.to_owned(),
            limits,
            umask: attributes::umask(),
            block: block.f_bsize.max(512),
            path: Vec::new(),
            directories: vec![(Vec::new(), Time::default())],
            opaque: Vec::new(),
            counted: HashSet::new(),
            entries: 0,
            content: 0,
            bytes: 0,
            inodes: 0,
            recount: false,
            opaque_root: false,
        })
    }

    /// Places `entry`, whose content is next in `archive`.
    pub fn place<R: BufRead>(
        &mut self,
        entry: &Entry,
        archive: &mut TarReader<'_, R>,
    ) -> Result<(), UnpackFault> {
        self.entries += 1;
        if self.entries > self.limits.entries {
            return Err(UnpackFault::Entries(self.limits.entries));
        }
        let mut path = std::mem::take(&mut self.path);
        let placed = match normalise(&entry.path, &mut path) {
            Err(_) => Err(UnpackFault::DotDot),
            Ok(()) if path.len() > self.limits.path => {
                Err(UnpackFault::PathTooLong { length: path.len(), limit: self.limits.path })
            }
            Ok(()) if path.is_empty() => self.root(entry),
            Ok(()) => self.place_at(&path, entry, archive),
        };
        self.path = path;
        placed
    }

    fn place_at<R: BufRead>(
        &mut self,
        path: &[u8],
        entry: &Entry,
        archive: &mut TarReader<'_, R>,
    ) -> Result<(), UnpackFault> {
        let (folder_path, name) = split(path);
        let meaning = whiteout::meaning(name)?;
        if meaning == Meaning::Bookkeeping || whiteout::in_bookkeeping(folder_path) {
            return Ok(());
        }
        let folder = self.tree.folder(folder_path)?;
        match meaning {
            Meaning::Bookkeeping => Ok(()),
            Meaning::Opaque => self.opaque(folder_path, &folder),
            Meaning::Whiteout(name) => {
                if whiteout::hide(&folder, name)? {
                    self.inodes += 1;
                    attributes::touch(On::Named(folder.as_fd(), name), entry.modified)?;
                }
                Ok(())
            }
            Meaning::Entry => match entry.kind {
                Kind::File => self.file(&folder, name, entry, archive),
                Kind::Directory => self.directory(&folder, path, name, entry),
                Kind::Symlink => self.symlink(&folder, name, entry),
                Kind::HardLink => self.hard_link(&folder, path, name, entry),
                Kind::CharDevice => self.node(&folder, name, entry, FileType::CharacterDevice),
                Kind::BlockDevice => self.node(&folder, name, entry, FileType::BlockDevice),
                Kind::Fifo => self.node(&folder, name, entry, FileType::Fifo),
            },
        }
    }

    fn root(&mut self, entry: &Entry) -> Result<(), UnpackFault> {
        if entry.kind != Kind::Directory {
            return Err(UnpackFault::RootNotDirectory);
        }
        attributes::apply(On::Open(self.tree.root()), entry, None)?;
        self.directories.push((Vec::new(), entry.modified));
        Ok(())
    }

    fn opaque(&mut self, path: &[u8], folder: &OwnedFd) -> Result<(), UnpackFault> {
        if path.is_empty() {
            // The kernel never looks for the mark there; the layer's record carries it.
            self.opaque_root = true;
        } else {
            whiteout::set_opaque(folder)?;
        }
        self.opaque.push(path.to_vec());
        Ok(())
    }

    fn file<R: BufRead>(
        &mut self,
        folder: &OwnedFd,
        name: &[u8],
        entry: &Entry,
        archive: &mut TarReader<'_, R>,
    ) -> Result<(), UnpackFault> {
        self.content = self.content.saturating_add(entry.size);
        if let Some(limit) = self.limits.bytes.filter(|limit| self.content > *limit) {
            return Err(UnpackFault::Bytes(limit));
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(entry.mode);
        let file = self
            .create(folder, name, || rustix::fs::openat(folder, name, flags, mode))
            .map_err(UnpackFault::at("create it"))?;
        loop {
            let piece = archive.content()?;
            if piece.is_empty() {
                break;
            }
            let written = match rustix::io::write(&file, piece) {
                Err(Errno::INTR) => continue,
                written => written.map_err(UnpackFault::at("write it"))?,
            };
            archive.consume(written);
        }
        self.bytes += entry.size.next_multiple_of(self.block);
        // Writing drops set-id bits in principle; root's writes keep them, but nobody should rely on it.
        let now = if entry.mode & 0o6000 == 0 { Some(entry.mode & !self.umask) } else { Some(0) };
        attributes::apply(On::Open(file.as_fd()), entry, now)?;
        attributes::touch(On::Open(file.as_fd()), entry.modified)
    }

    fn directory(
        &mut self,
        folder: &OwnedFd,
        path: &[u8],
        name: &[u8],
        entry: &Entry,
    ) -> Result<(), UnpackFault> {
        let mode = Mode::from_raw_mode(entry.mode & MKDIR_BITS);
        let now = match rustix::fs::mkdirat(folder, name, mode) {
            Ok(()) => {
                self.inodes += 1;
                Some(entry.mode & MKDIR_BITS & !self.umask)
            }
            Err(Errno::EXIST) => self.directory_over(folder, name)?,
            Err(e) => return Err(UnpackFault::at("make it")(e)),
        };
        if entry.xattrs.is_empty() {
            attributes::apply(On::Named(folder.as_fd(), name), entry, now)?;
        } else {
            let directory = open_directory(folder, name).map_err(UnpackFault::at("open it"))?;
            attributes::apply(On::Open(directory.as_fd()), entry, now)?;
        }
        self.directories.push((path.to_vec(), entry.modified));
        Ok(())
    }

    /// Makes way for a directory, unless one is there already. Answers the mode, if it is known.
    fn directory_over(&mut self, folder: &OwnedFd, name: &[u8]) -> Result<Option<u32>, UnpackFault> {
        let found = rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(UnpackFault::at("look at what is there"))?;
        if FileType::from_raw_mode(found.st_mode) == FileType::Directory {
            return Ok(None);
        }
        self.tree.forget();
        self.recount = true;
        let mode = Mode::from_raw_mode(0o700);
        rustix::fs::unlinkat(folder, name, AtFlags::empty())
            .and_then(|()| rustix::fs::mkdirat(folder, name, mode))
            .map_err(UnpackFault::at("replace what is there"))?;
        if whiteout::is_whiteout(&found) {
            whiteout::set_opaque(open_directory(folder, name).map_err(UnpackFault::at("open it"))?)?;
        }
        Ok(None)
    }

    fn node(
        &mut self,
        folder: &OwnedFd,
        name: &[u8],
        entry: &Entry,
        kind: FileType,
    ) -> Result<(), UnpackFault> {
        let mode = Mode::from_raw_mode(entry.mode);
        let device = rustix::fs::makedev(entry.device.0, entry.device.1);
        self.create(folder, name, || rustix::fs::mknodat(folder, name, kind, mode, device))
            .map_err(UnpackFault::at("make it"))?;
        let on = On::Named(folder.as_fd(), name);
        attributes::apply(on, entry, Some(entry.mode & !self.umask))?;
        attributes::touch(on, entry.modified)
    }

    /// Creates something that must not be there yet, and makes way for it if it is.
    pub(super) fn create<T>(
        &mut self,
        folder: &OwnedFd,
        name: &[u8],
        create: impl Fn() -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        self.inodes += 1;
        match create() {
            Err(Errno::EXIST) => {}
            done => return done,
        }
        self.recount = true;
        self.tree.forget();
        remove(folder, name)?;
        create()
    }
}
