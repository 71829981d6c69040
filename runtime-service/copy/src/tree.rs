//! Makes the files of an archive below its base folder.

use std::ffi::{OsStr, OsString};
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use crisp_image_service::unpack::tar::{Entry, Kind, TarReader};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, linkat, mkdirat, mknodat, openat, symlinkat};
use rustix::io::Errno;

use crate::attributes::{Attributes, Owner, umask};
use crate::destination::BaseFolder;
use crate::file::{self, clear};
use crate::names::{parts, shown};
use crate::root::Root;
use crate::source::Source;
use crate::{CopyError, MAX_DEPTH};

/// The result of unpacking.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Unpacked {
    pub entries: u64,
    pub bytes: u64,
}

/// The files below the base. Entries are usually sorted by directory, so the directories on the path to the
/// last entry stay open. A directory gets its attributes after the last entry in it.
pub(crate) struct Tree<'a> {
    root: &'a Root,
    base: BaseFolder,
    /// The path of the base in the root, when mounts have to be kept out.
    base_in_root: Option<PathBuf>,
    /// Whether the name of the base replaces the archive's first name; otherwise it is put before all names.
    replaces_top: bool,
    owner: Owner,
    umask: u32,
    open: Vec<Open>,
    made: Unpacked,
}

/// A directory on the path to the last entry.
struct Open {
    name: OsString,
    folder: OwnedFd,
    /// None when the directory existed before, or has no entry.
    attributes: Option<Attributes>,
}

impl<'a> Tree<'a> {
    pub(crate) fn new(
        root: &'a Root,
        base: BaseFolder,
        top: Option<&OsStr>,
        owner: Owner,
    ) -> Result<Self, CopyError> {
        let base_in_root = root.place_of(&base.folder)?;
        let replaces_top = base.name.is_some() && top.is_some();
        let (open, made) = (Vec::new(), Unpacked::default());
        let umask = if owner == Owner::Maker { umask() } else { 0 };
        Ok(Self { root, base, base_in_root, replaces_top, owner, umask, open, made })
    }

    /// The name of a file in messages.
    fn shown(&self, parts: &[OsString]) -> String {
        format!("{}/{}", self.base.path.trim_end_matches('/'), shown(parts))
    }

    /// The names of an entry below the base.
    fn target(&self, parts: Vec<OsString>) -> Vec<OsString> {
        let Some(name) = &self.base.name else { return parts };
        let rest = parts.into_iter().skip(usize::from(self.replaces_top));
        std::iter::once(name.clone()).chain(rest).collect()
    }

    /// Makes the file of an entry. `parts`: the entry's path in the archive.
    pub(crate) fn add(
        &mut self,
        parts: Vec<OsString>,
        entry: &Entry,
        reader: &mut TarReader<'_, Source<impl Read>>,
    ) -> Result<(), CopyError> {
        let parts = self.target(parts);
        // The base itself keeps its own attributes.
        let Some((name, parents)) = parts.split_last() else { return Ok(()) };
        let path = self.shown(&parts);
        self.check_mounts(&parts)?;
        self.enter(parents)?;
        self.made.entries += 1;
        let attributes = Attributes::of(entry, self.owner, self.umask, self.root.users());
        let no_owner = || CopyError::NoOwner { path: path.clone(), uid: entry.uid, gid: entry.gid };
        let attributes = attributes.ok_or_else(no_owner)?;
        let folder = self.folder();
        match entry.kind {
            Kind::Directory => return self.directory(name, &path, attributes),
            Kind::File => {
                let bytes = file::write(folder, name, &path, &attributes, entry, reader)?;
                self.made.bytes += bytes;
                return Ok(());
            }
            Kind::HardLink => return self.hard_link(name, &path, entry),
            Kind::Symlink => {
                clear(folder, name, &path)?;
                symlinkat(OsStr::from_bytes(&entry.link), folder, name.as_os_str())
            }
            Kind::Fifo => {
                clear(folder, name, &path)?;
                mknodat(folder, name.as_os_str(), FileType::Fifo, attributes.mode, 0)
            }
            Kind::CharDevice | Kind::BlockDevice => return Err(CopyError::Device { entry: path }),
        }
        .and_then(|()| attributes.give_owner(folder, name))
        .map_err(CopyError::at(&path))
    }

    fn check_mounts(&self, parts: &[OsString]) -> Result<(), CopyError> {
        let Some(base) = &self.base_in_root else { return Ok(()) };
        let path = base.join(parts.iter().collect::<PathBuf>());
        if self.root.is_in_mount(&path) {
            return Err(CopyError::NotMounted { path: path.display().to_string() });
        }
        Ok(())
    }

    /// The innermost directory that is open.
    fn folder(&self) -> &OwnedFd {
        self.open.last().map_or(&self.base.folder, |open| &open.folder)
    }

    /// Enters a directory below the base, and makes it if it is missing. No link is followed.
    fn enter(&mut self, parents: &[OsString]) -> Result<(), CopyError> {
        if parents.len() > MAX_DEPTH {
            return Err(CopyError::TooDeep { path: self.shown(parents), max: MAX_DEPTH });
        }
        let common = self.open.iter().zip(parents).take_while(|(open, name)| open.name == **name).count();
        self.leave(common)?;
        for depth in common..parents.len() {
            let (here, name) = (self.folder(), &parents[depth]);
            let path = || self.shown(&parents[..=depth]);
            let opened = match open_directory(here, name) {
                Err(Errno::NOENT) => mkdirat(here, name.as_os_str(), Mode::from_raw_mode(0o755))
                    .and_then(|()| open_directory(here, name)),
                opened => opened,
            };
            let folder = opened.map_err(|errno| not_a_directory(&path(), errno))?;
            self.open.push(Open { name: name.clone(), folder, attributes: None });
        }
        Ok(())
    }

    /// Leaves the innermost directories until `stay` directories are open.
    fn leave(&mut self, stay: usize) -> Result<(), CopyError> {
        while self.open.len() > stay {
            let Some(Open { name, folder, attributes: Some(attributes) }) = self.open.pop() else { continue };
            let name = name.to_string_lossy();
            attributes.give(&folder).map_err(CopyError::at(&name))?;
        }
        Ok(())
    }

    fn directory(&mut self, name: &OsStr, path: &str, attributes: Attributes) -> Result<(), CopyError> {
        let is_new = match mkdirat(self.folder(), name, Mode::RWXU) {
            Ok(()) => true,
            Err(Errno::EXIST) => false,
            Err(errno) => return Err(CopyError::at(path)(errno)),
        };
        let folder = open_directory(self.folder(), name).map_err(|errno| not_a_directory(path, errno))?;
        self.open.push(Open { name: name.to_owned(), folder, attributes: is_new.then_some(attributes) });
        Ok(())
    }

    /// Makes another name for a file of the same archive.
    fn hard_link(&self, name: &OsStr, path: &str, entry: &Entry) -> Result<(), CopyError> {
        let target = self.target(parts(&entry.link)?);
        let missing = || CopyError::Missing { path: self.shown(&target) };
        let (target_name, parents) = target.split_last().ok_or_else(missing)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mut folder = openat(&self.base.folder, ".", flags, Mode::empty()).map_err(CopyError::at(path))?;
        for parent in parents {
            folder = open_directory(&folder, parent)
                .map_err(|errno| not_a_directory(&self.shown(&target), errno))?;
        }
        if name == target_name && folder_is(&folder, self.folder()) {
            return Ok(());
        }
        clear(self.folder(), name, path)?;
        linkat(&folder, target_name.as_os_str(), self.folder(), name, AtFlags::empty())
            .map_err(CopyError::at(path))
    }

    /// # Errors
    /// The error of the first directory whose attributes cannot be set.
    pub(crate) fn finish(mut self) -> Result<Unpacked, CopyError> {
        self.leave(0)?;
        Ok(self.made)
    }
}

fn folder_is(one: &OwnedFd, other: &OwnedFd) -> bool {
    let key = |folder| rustix::fs::fstat(folder).ok().map(|stat| (stat.st_dev, stat.st_ino));
    key(one).is_some() && key(one) == key(other)
}

fn open_directory(folder: &OwnedFd, name: &OsStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(folder, name, flags, Mode::empty())
}

/// The kernel reports a link in the place of a directory as ELOOP.
fn not_a_directory(path: &str, errno: Errno) -> CopyError {
    match errno {
        Errno::LOOP | Errno::NOTDIR => CopyError::NotADirectory { path: path.to_owned() },
        errno => CopyError::at(path)(errno),
    }
}
