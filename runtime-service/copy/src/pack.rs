//! Packs a file, or a directory with its content, as a tar archive.

use std::collections::HashMap;
use std::ffi::{CStr, OsStr};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{Dir, FileType, Mode, OFlags, Stat, fstat, openat, readlinkat};
use rustix::io::Errno;
use tar::{Builder, EntryType, Header};

use crate::kernel_files;
use crate::root::{self, Root, reopen};
use crate::{CopyError, MAX_DEPTH};

/// How many files with several names are remembered; later names of these become links to the first.
const MAX_LINKED: usize = 100_000;
/// The id that the kernel shows for an owner that is not mapped in a user namespace
/// (proc/sys/kernel/overflowuid).
const NO_USER: u32 = 65_534;

/// Writes `path` as an archive to `into`. The names of the entries begin with the last name of the path, or
/// with `.` when the path ends in `/.` or is the root: the archive then has the content of the directory.
/// With `follow`, or when the path ends in a slash, a symbolic link at `path` itself is followed. Left out
/// are file systems of the kernel, such as /proc, unless `path` is in one, and files that are removed during
/// the copy.
///
/// # Errors
/// [`CopyError`], with the file.
pub fn pack(root: &Root, path: &str, follow: bool, into: impl Write) -> Result<(), CopyError> {
    let name = last_name(path);
    let follow = follow || name == "." || path.ends_with('/');
    let flags = if follow { OFlags::PATH } else { OFlags::PATH | OFlags::NOFOLLOW };
    let found = root.open(path, flags)?;
    let place = root.place_of(&found)?;
    if place.as_ref().is_some_and(|place| root.is_in_mount(place)) {
        return Err(CopyError::NotMounted { path: path.to_owned() });
    }
    let stat = fstat(&found).map_err(CopyError::at(path))?;
    let of_kernel = kernel_files::are_in(&found).then_some(stat.st_dev);
    let archive = Builder::new(into);
    let mut packer = Packer { archive, begin: path, root, of_kernel, linked: HashMap::new() };
    packer.entry(&Found { file: found, stat, place, is_left_out: false }, Path::new(name), 0)?;
    packer.archive.finish().map_err(CopyError::Archive)
}

/// Returns the last name; `.` for the content of a directory.
fn last_name(path: &str) -> &str {
    match path.trim_end_matches('/').rsplit('/').next() {
        None | Some("" | "." | "..") => ".",
        Some(name) => name,
    }
}

struct Packer<'a, W: Write> {
    archive: Builder<W>,
    begin: &'a str,
    root: &'a Root,
    /// The device number of the kernel's file system that `path` is in.
    of_kernel: Option<u64>,
    /// The entry of each file with several names, by device and inode.
    linked: HashMap<(u64, u64), PathBuf>,
}

struct Found {
    /// Opened with `O_PATH`.
    file: OwnedFd,
    stat: Stat,
    /// The path in the root, when mounts have to be kept out.
    place: Option<PathBuf>,
    /// Leaves out the file, or the content of a directory.
    is_left_out: bool,
}

impl<W: Write> Packer<'_, W> {
    fn entry(&mut self, found: &Found, name: &Path, depth: usize) -> Result<(), CopyError> {
        let shown = self.shown(name);
        match root::kind(&found.stat) {
            FileType::Directory => {
                self.head(EntryType::Directory, &found.stat, name)?;
                if found.is_left_out { Ok(()) } else { self.directory(found, name, depth) }
            }
            _ if found.is_left_out => Ok(()),
            FileType::RegularFile => self.regular(found, name, depth),
            FileType::Symlink => {
                let target = readlinkat(&found.file, "", Vec::new()).map_err(CopyError::at(&shown))?;
                self.link(EntryType::Symlink, found, name, Path::new(OsStr::from_bytes(target.to_bytes())))
            }
            FileType::Fifo => self.head(EntryType::Fifo, &found.stat, name),
            // Devices belong to the container alone, and a socket is of no use without its program.
            FileType::CharacterDevice | FileType::BlockDevice | FileType::Socket | FileType::Unknown => {
                Ok(())
            }
        }
    }

    fn shown(&self, name: &Path) -> String {
        format!("{} ({})", self.begin, name.display())
    }

    fn head(&mut self, kind: EntryType, stat: &Stat, name: &Path) -> Result<(), CopyError> {
        let mut header = self.header(kind, stat);
        self.archive.append_data(&mut header, name, io::empty()).map_err(CopyError::Archive)
    }

    fn link(&mut self, kind: EntryType, found: &Found, name: &Path, to: &Path) -> Result<(), CopyError> {
        let mut header = self.header(kind, &found.stat);
        self.archive.append_link(&mut header, name, to).map_err(CopyError::Archive)
    }

    /// Packs the content of a directory.
    fn directory(&mut self, found: &Found, name: &Path, depth: usize) -> Result<(), CopyError> {
        let shown = self.shown(name);
        if depth >= MAX_DEPTH {
            return Err(CopyError::TooDeep { path: shown, max: MAX_DEPTH });
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = match openat(&found.file, ".", flags, Mode::empty()) {
            Err(Errno::NOENT | Errno::SRCH) if depth > 0 => return Ok(()),
            opened => opened.map_err(CopyError::at(&shown))?,
        };
        for entry in Dir::read_from(&directory).map_err(CopyError::at(&shown))? {
            let entry = match entry {
                // The folder of a process that has ended.
                Err(Errno::SRCH) => break,
                entry => entry.map_err(CopyError::at(&shown))?,
            };
            let below = entry.file_name();
            if matches!(below.to_bytes(), b"." | b"..") {
                continue;
            }
            let Some(inner) = self.look_up(found, &directory, below).map_err(CopyError::at(&shown))? else {
                continue;
            };
            self.entry(&inner, &name.join(OsStr::from_bytes(below.to_bytes())), depth + 1)?;
        }
        Ok(())
    }

    /// Returns None when the file has been removed.
    fn look_up(&self, above: &Found, directory: &OwnedFd, name: &CStr) -> Result<Option<Found>, Errno> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = match openat(directory, name, flags, Mode::empty()) {
            Err(Errno::NOENT | Errno::SRCH) => return Ok(None),
            opened => opened?,
        };
        let stat = fstat(&file)?;
        let is_other = stat.st_dev != above.stat.st_dev && Some(stat.st_dev) != self.of_kernel;
        let is_of_kernel = is_other && kernel_files::are_in(&file);
        let place = above.place.as_ref().map(|place| place.join(OsStr::from_bytes(name.to_bytes())));
        let is_in_mount = place.as_ref().is_some_and(|place| self.root.is_in_mount(place));
        Ok(Some(Found { file, stat, place, is_left_out: is_of_kernel || is_in_mount }))
    }

    fn regular(&mut self, found: &Found, name: &Path, depth: usize) -> Result<(), CopyError> {
        let shown = self.shown(name);
        let key = (found.stat.st_dev, found.stat.st_ino);
        if found.stat.st_nlink > 1 {
            if let Some(first) = self.linked.get(&key).cloned() {
                return self.link(EntryType::Link, found, name, &first);
            }
            if self.linked.len() < MAX_LINKED {
                self.linked.insert(key, name.to_owned());
            }
        }
        let opened = reopen(&found.file, OFlags::RDONLY);
        if Some(found.stat.st_dev) == self.of_kernel {
            return match opened.map_err(io::Error::from).and_then(kernel_files::read) {
                Ok(content) => self.content(&found.stat, content.len() as u64, &content[..], name),
                // The file is write-only, or its process has ended.
                Err(_) if depth > 0 => Ok(()),
                Err(error) => Err(CopyError::at(&shown)(error)),
            };
        }
        let file = std::fs::File::from(opened.map_err(CopyError::at(&shown))?);
        let stat = fstat(&file).map_err(CopyError::at(&shown))?;
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        // The content must have the announced size, also when the file becomes shorter or longer during the
        // copy.
        self.content(&stat, size, file.take(size).chain(io::repeat(0)).take(size), name)
    }

    fn content(&mut self, stat: &Stat, size: u64, of: impl Read, name: &Path) -> Result<(), CopyError> {
        let mut header = self.header(EntryType::Regular, stat);
        header.set_size(size);
        self.archive.append_data(&mut header, name, of).map_err(CopyError::Archive)
    }

    fn header(&self, kind: EntryType, stat: &Stat) -> Header {
        let (uid, gid) = match self.root.users() {
            None => (stat.st_uid, stat.st_gid),
            Some(users) => (
                users.container_uid(stat.st_uid).unwrap_or(NO_USER),
                users.container_gid(stat.st_gid).unwrap_or(NO_USER),
            ),
        };
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_name_of_a_path() {
        for (path, name) in [
            ("/etc/passwd", "passwd"),
            ("dir/", "dir"),
            ("dir/.", "."),
            ("/", "."),
            ("", "."),
            ("..", "."),
            ("a/..", "."),
        ] {
            assert_eq!(last_name(path), name, "{path:?}");
        }
    }
}
