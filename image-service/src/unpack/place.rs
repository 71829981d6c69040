//! Putting one entry in its place.

use std::collections::HashSet;
use std::io::BufRead;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::attributes::{self, On};
use super::path::{normalise, split};
use super::tar::{Entry, Kind, TarReader, Time};
use super::tree::Tree;
use super::usage::measure;
use super::whiteout::{self, Meaning};
use super::{Limits, UnpackFault, Unpacked, lossy};

/// The bits that mkdir honours.
const MKDIR_BITS: u32 = 0o1777;

/// One archive being unpacked.
pub(super) struct Unpacker<'a> {
    tree: Tree,
    root: PathBuf,
    limits: &'a Limits,
    umask: u32,
    block: u64,
    /// The current entry's normalised path.
    path: Vec<u8>,
    /// Times of directories, set when nothing more is put into them. In the archive's order: one
    /// directory may have several paths, over links, and the last entry counts.
    directories: Vec<(Vec<u8>, Time)>,
    opaque: Vec<Vec<u8>>,
    entries: u64,
    content: u64,
    bytes: u64,
    inodes: u64,
    /// Something was replaced: the sums are no longer right.
    recount: bool,
    opaque_root: bool,
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

    fn symlink(&mut self, folder: &OwnedFd, name: &[u8], entry: &Entry) -> Result<(), UnpackFault> {
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

    fn hard_link(
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

    /// Creates something that must not be there yet, and makes way for it if it is.
    fn create<T>(
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

    /// Finishes directories, which change as long as something is put into them.
    pub fn finish(mut self) -> Result<Unpacked, UnpackFault> {
        for path in std::mem::take(&mut self.opaque) {
            if let Ok(directory) = self.tree.open_folder(&path, OFlags::NOFOLLOW) {
                let removed = whiteout::remove_all(&directory)?;
                self.inodes = self.inodes.saturating_sub(removed);
            }
        }
        self.inodes += self.tree.implied.len() as u64;
        let implied = std::mem::take(&mut self.tree.implied).into_iter().map(|path| (path, Time::default()));
        let mut seen = HashSet::new();
        for (path, modified) in implied.chain(std::mem::take(&mut self.directories)) {
            // Gone again, or replaced by something else.
            let Ok(directory) = self.tree.open_folder(&path, OFlags::NOFOLLOW) else { continue };
            attributes::touch(On::Open(directory.as_fd()), modified)?;
            let stat = rustix::fs::fstat(&directory).map_err(UnpackFault::at("look at a directory"))?;
            if seen.insert(stat.st_ino) {
                self.bytes += u64::try_from(stat.st_blocks).unwrap_or_default() * 512;
            }
        }
        let (bytes, inodes) = if self.recount {
            measure(&self.root).map_err(UnpackFault::at("measure the layer"))?
        } else {
            (self.bytes, self.inodes + 1)
        };
        Ok(Unpacked { entries: self.entries, bytes, inodes, opaque_root: self.opaque_root })
    }
}

fn open_directory(folder: &OwnedFd, name: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    rustix::fs::openat(folder, name, flags, Mode::empty())
}

/// Removes whatever is at `name`, with everything in it.
fn remove(folder: &OwnedFd, name: &[u8]) -> Result<(), Errno> {
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
