//! Writes a tree as the archive of a layer: always the same bytes for the same tree.
//!
//! Overlay's marks become the marker files of the image specification (see [`crate::unpack`]). Left out are
//! sockets, fractions of a second, and extended attributes other than `security.capability` and `user.`.

use std::collections::HashMap;
use std::ffi::{CStr, OsStr};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, Stat, fgetxattr, flistxattr, openat, readlinkat};
use rustix::io::Errno;
use tar::{Builder, EntryType, Header};

use crate::tree::{Found, walk_sorted};

const OPAQUE: &str = "trusted.overlay.opaque";
/// The kernel's limit.
const MAX_XATTR: usize = 64 << 10;

/// The part of a tree that is written, and the owners in the archive.
pub struct Content<'a> {
    /// Whether the entry at this path, without a slash at the start, is left out.
    pub skip: &'a dyn Fn(&[u8]) -> bool,
    /// Maps user and group on disk to those in the archive.
    pub owner: &'a dyn Fn(u32, u32) -> (u32, u32),
    /// Called often, and at the end: an error ends the archive.
    pub check: &'a dyn Fn() -> io::Result<()>,
    /// Whether a directory is left out, but not its content.
    pub implied: &'a dyn Fn(&[u8]) -> bool,
}

impl Content<'_> {
    /// The whole tree, unchanged.
    pub const ALL: Content<'static> =
        Content { skip: &|_| false, owner: &|uid, gid| (uid, gid), check: &|| Ok(()), implied: &|_| false };
}

/// Writes the tree below `root`. The content of a directory that is left out is left out too. With
/// `opaque_root` the archive hides all layers below: overlay has no mark for that on a layer's root.
///
/// # Errors
/// The tree cannot be read, for example because it changes meanwhile, or `into` cannot be written.
pub fn write_layer(
    root: &Path,
    content: &Content<'_>,
    opaque_root: bool,
    into: impl Write,
) -> io::Result<()> {
    let mut archive = Builder::new(into);
    archive.mode(tar::HeaderMode::Deterministic);
    let mut writer = LayerWriter { archive, content, opaque_root, linked: HashMap::new() };
    let skipped = |path: &[u8]| {
        let ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
        ends.chain([path.len()]).any(|end| end > 0 && (content.skip)(&path[..end]))
    };
    walk_sorted(root, |found| {
        let at =
            |e: io::Error| io::Error::new(e.kind(), format!("{}: {e}", String::from_utf8_lossy(found.path)));
        (content.check)()?;
        if skipped(found.path) { Ok(()) } else { writer.entry(&found).map_err(at) }
    })?;
    (content.check)()?;
    writer.archive.finish()
}

struct LayerWriter<'a, W: Write> {
    archive: Builder<W>,
    content: &'a Content<'a>,
    opaque_root: bool,
    /// The first path of each file with several names, by device and inode.
    linked: HashMap<(u64, u64), PathBuf>,
}

impl<W: Write> LayerWriter<'_, W> {
    fn entry(&mut self, found: &Found<'_>) -> io::Result<()> {
        let path = Path::new(OsStr::from_bytes(found.path));
        match FileType::from_raw_mode(found.stat.st_mode) {
            FileType::Directory => self.directory(found, path),
            FileType::RegularFile => self.regular(found, path),
            FileType::Symlink => {
                let target = readlinkat(found.folder, found.name, Vec::new())?;
                let mut header = self.header(EntryType::Symlink, found.stat);
                self.archive.append_link(&mut header, path, OsStr::from_bytes(target.to_bytes()))
            }
            FileType::CharacterDevice if found.stat.st_rdev == 0 => {
                let name = [b".wh.", found.name.to_bytes()].concat();
                self.marker(&path.with_file_name(OsStr::from_bytes(&name)))
            }
            FileType::CharacterDevice => self.device(EntryType::Char, found.stat, path),
            FileType::BlockDevice => self.device(EntryType::Block, found.stat, path),
            FileType::Fifo => {
                let mut header = self.header(EntryType::Fifo, found.stat);
                self.archive.append_data(&mut header, path, io::empty())
            }
            FileType::Socket | FileType::Unknown => Ok(()),
        }
    }

    fn directory(&mut self, found: &Found<'_>, path: &Path) -> io::Result<()> {
        let directory = open(found.folder, found.name, OFlags::DIRECTORY)?;
        // The root has no name of its own, but attributes.
        let shown = if path.as_os_str().is_empty() { Path::new("./") } else { path };
        if !(self.content.implied)(found.path) {
            self.xattrs(&directory)?;
            let mut header = self.header(EntryType::Directory, found.stat);
            self.archive.append_data(&mut header, shown, io::empty())?;
        }
        let opaque_root = self.opaque_root && path.as_os_str().is_empty();
        if opaque_root || value_of(&directory, OPAQUE)?.as_deref() == Some(b"y") {
            self.marker(&path.join(".wh..wh..opq"))?;
        }
        Ok(())
    }

    fn regular(&mut self, found: &Found<'_>, path: &Path) -> io::Result<()> {
        let key = (found.stat.st_dev, found.stat.st_ino);
        if found.stat.st_nlink > 1 {
            if let Some(first) = self.linked.get(&key).cloned() {
                let mut header = self.header(EntryType::Link, found.stat);
                return self.archive.append_link(&mut header, path, first);
            }
            self.linked.insert(key, path.to_owned());
        }
        let file = open(found.folder, found.name, OFlags::NONBLOCK)?;
        let stat = rustix::fs::fstat(&file)?;
        if (stat.st_dev, stat.st_ino) != key {
            return Err(io::Error::other("it was exchanged while it was read"));
        }
        self.xattrs(&file)?;
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        let mut header = self.header(EntryType::Regular, &stat);
        header.set_size(size);
        // The archive needs the announced number of bytes, even if the file grows or shrinks meanwhile.
        let file = Checked { inner: file.into(), check: self.content.check, left: 0 };
        let content = file.take(size).chain(io::repeat(0)).take(size);
        self.archive.append_data(&mut header, path, content)
    }

    fn device(&mut self, kind: EntryType, stat: &Stat, path: &Path) -> io::Result<()> {
        let mut header = self.header(kind, stat);
        header.set_device_major(rustix::fs::major(stat.st_rdev))?;
        header.set_device_minor(rustix::fs::minor(stat.st_rdev))?;
        self.archive.append_data(&mut header, path, io::empty())
    }

    /// An empty marker file that hides the layers below.
    fn marker(&mut self, path: &Path) -> io::Result<()> {
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::Regular);
        header.set_mode(0o600);
        header.set_size(0);
        self.archive.append_data(&mut header, path, io::empty())
    }

    /// The pax header before the entry to which the attributes belong.
    fn xattrs(&mut self, file: &OwnedFd) -> io::Result<()> {
        let mut found = Vec::new();
        for name in names_of(file)? {
            if (name == "security.capability" || name.starts_with("user."))
                && let Some(value) = value_of(file, &name)?
            {
                found.push((format!("SCHILY.xattr.{name}"), value));
            }
        }
        if found.is_empty() {
            return Ok(());
        }
        self.archive.append_pax_extensions(found.iter().map(|(name, value)| (name.as_str(), &value[..])))
    }

    fn header(&self, kind: EntryType, stat: &Stat) -> Header {
        let (uid, gid) = (self.content.owner)(stat.st_uid, stat.st_gid);
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(stat.st_mode & 0o7777);
        header.set_uid(uid.into());
        header.set_gid(gid.into());
        header.set_mtime(u64::try_from(stat.st_mtime).unwrap_or(0));
        header.set_size(0);
        header
    }
}

/// Bytes of a file between two calls of `check`.
const PIECE: usize = 1 << 20;

/// A reader of a file that fails when `check` fails.
struct Checked<'a> {
    inner: std::fs::File,
    check: &'a dyn Fn() -> io::Result<()>,
    /// Bytes until the next check.
    left: usize,
}

impl Read for Checked<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 {
            (self.check)()?;
            self.left = PIECE;
        }
        let read = self.inner.read(buffer)?;
        self.left = self.left.saturating_sub(read);
        Ok(read)
    }
}

fn open(folder: impl AsFd, name: &CStr, flags: OFlags) -> io::Result<OwnedFd> {
    let flags = flags | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(openat(folder, name, flags, Mode::empty())?)
}

/// Sorted.
fn names_of(file: &OwnedFd) -> io::Result<Vec<String>> {
    let mut list = vec![0; MAX_XATTR];
    let length = match flistxattr(file, &mut list) {
        Err(Errno::OPNOTSUPP) => 0,
        length => length?,
    };
    let names = list[..length].split(|byte| *byte == 0).filter_map(|name| std::str::from_utf8(name).ok());
    let mut names: Vec<String> = names.filter(|name| !name.is_empty()).map(str::to_owned).collect();
    names.sort_unstable();
    Ok(names)
}

/// None if it has no attribute of this name.
fn value_of(file: &OwnedFd, name: &str) -> io::Result<Option<Vec<u8>>> {
    let mut value = vec![0; MAX_XATTR];
    match fgetxattr(file, name, &mut value) {
        Ok(length) => {
            value.truncate(length);
            Ok(Some(value))
        }
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}
