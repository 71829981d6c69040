//! The folders of the layer being unpacked, by descriptor.

use std::collections::HashMap;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::rc::Rc;

use crisp_operation::tree::{open_beneath, open_root};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::UnpackFault;
use super::lossy;
use super::path::{follow, split};
use super::totals::Totals;
use super::whiteout;

/// Limit for remembered open folders; archives visit folders mostly in order.
const REMEMBERED: usize = 32;
/// The same limit as the kernel's.
const MAX_LINKS: u32 = 40;
/// The mode of folders that have no entry in the archive.
const IMPLIED_MODE: u32 = 0o755;

/// The layer's root and its recently used folders.
pub(super) struct Folders {
    root: Rc<OwnedFd>,
    remembered: HashMap<Vec<u8>, Rc<OwnedFd>>,
    last: (Vec<u8>, Rc<OwnedFd>),
    /// Folders that were made because an entry inside them came first.
    pub implied: Vec<Vec<u8>>,
    /// A path passed a link, so an entry is at another path than its name.
    pub passed_link: bool,
}

/// A folder on the path of an entry.
#[derive(Clone, Copy)]
struct Component<'p> {
    parent: &'p OwnedFd,
    name: &'p [u8],
    /// The path from the root, including the name.
    path: &'p [u8],
    /// The number of links that may still be followed.
    links: u32,
}

impl Folders {
    pub fn open(root: &Path) -> Result<Self, UnpackFault> {
        let root = Rc::new(open_root(root).map_err(UnpackFault::at("open the layer's folder"))?);
        let last = (Vec::new(), Rc::clone(&root));
        Ok(Self { root, remembered: HashMap::new(), last, implied: Vec::new(), passed_link: false })
    }

    pub fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    pub fn root_descriptor(&self) -> Rc<OwnedFd> {
        Rc::clone(&self.root)
    }

    /// Opens an existing folder. `path` is normalised; links in it are resolved below the root.
    pub fn open_folder(&self, path: &[u8], more: OFlags) -> Result<OwnedFd, Errno> {
        self.resolve(path, more, ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS)
    }

    fn resolve(&self, path: &[u8], more: OFlags, how: ResolveFlags) -> Result<OwnedFd, Errno> {
        let path = if path.is_empty() { b"." } else { path };
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC | more;
        loop {
            match rustix::fs::openat2(&self.root, path, flags, Mode::empty(), how | ResolveFlags::NO_XDEV) {
                // A rename elsewhere on the system raced with a `..`.
                Err(Errno::AGAIN | Errno::INTR) => {}
                done => return done,
            }
        }
    }

    /// The folder for an entry, made if it is missing.
    pub fn folder(&mut self, path: &[u8], totals: &mut Totals<'_>) -> Result<Rc<OwnedFd>, UnpackFault> {
        if self.last.0 == path {
            return Ok(Rc::clone(&self.last.1));
        }
        let folder = match self.remembered.get(path) {
            Some(folder) => Rc::clone(folder),
            None => {
                let folder = Rc::new(self.open_or_make(path, MAX_LINKS, totals)?);
                if self.remembered.len() >= REMEMBERED {
                    self.remembered.clear();
                }
                self.remembered.insert(path.to_vec(), Rc::clone(&folder));
                folder
            }
        };
        self.last.0.clear();
        self.last.0.extend_from_slice(path);
        self.last.1 = Rc::clone(&folder);
        Ok(folder)
    }

    /// Must be called when a path may resolve differently than before.
    pub fn forget(&mut self) {
        self.remembered.clear();
        self.last = (Vec::new(), Rc::clone(&self.root));
    }

    fn open_or_make(
        &mut self,
        path: &[u8],
        links: u32,
        totals: &mut Totals<'_>,
    ) -> Result<OwnedFd, UnpackFault> {
        match self.resolve(path, OFlags::empty(), ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS) {
            Ok(folder) => return Ok(folder),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
            Err(e) => return Err(UnpackFault::at("open its folder")(e)),
        }
        match self.open_over_links(path)? {
            Some(folder) => Ok(folder),
            None => self.make(path, links, totals),
        }
    }

    /// Opens a folder at the end of links; None if they lead to nothing, or to another file.
    fn open_over_links(&mut self, path: &[u8]) -> Result<Option<OwnedFd>, UnpackFault> {
        match self.open_folder(path, OFlags::empty()) {
            Ok(folder) => {
                self.passed_link = true;
                Ok(Some(folder))
            }
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Err(Errno::LOOP) => Err(UnpackFault::LinkLoop),
            Err(e) => Err(UnpackFault::at("open its folder")(e)),
        }
    }

    /// Makes the missing components of `path`. Each is opened from the one before, so that the cost of a deep
    /// path only grows with its length.
    fn make(&mut self, path: &[u8], links: u32, totals: &mut Totals<'_>) -> Result<OwnedFd, UnpackFault> {
        let mut folder = open_beneath(&self.root, ".").map_err(UnpackFault::at("open the root"))?;
        let mut end = 0;
        for name in path.split(|b| *b == b'/') {
            end += name.len();
            let component = Component { parent: &folder, name, path: &path[..end], links };
            folder = match open_beneath(&folder, name) {
                Ok(next) => next,
                Err(Errno::NOENT) => self.make_one(component, totals)?,
                Err(Errno::NOTDIR | Errno::LOOP) => self.not_a_directory(component, totals)?,
                Err(e) => return Err(UnpackFault::at("open its folder")(e)),
            };
            end += 1;
        }
        Ok(folder)
    }

    /// Makes one folder at a free name.
    fn make_one(&mut self, at: Component<'_>, totals: &mut Totals<'_>) -> Result<OwnedFd, UnpackFault> {
        totals.implied(at.path)?;
        match rustix::fs::mkdirat(at.parent, at.name, Mode::from_raw_mode(IMPLIED_MODE)) {
            Ok(()) => {}
            Err(Errno::EXIST) => return self.not_a_directory(at, totals),
            Err(e) => return Err(UnpackFault::at("make its folder")(e)),
        }
        let folder = open_beneath(at.parent, at.name).map_err(UnpackFault::at("open its folder"))?;
        rustix::fs::fchmod(&folder, Mode::from_raw_mode(IMPLIED_MODE))
            .map_err(UnpackFault::at("set the mode of its folder"))?;
        self.implied.push(at.path.to_vec());
        Ok(folder)
    }

    /// Opens or makes a folder at the place of a link or a whiteout.
    fn not_a_directory(
        &mut self,
        at: Component<'_>,
        totals: &mut Totals<'_>,
    ) -> Result<OwnedFd, UnpackFault> {
        let found = rustix::fs::statat(at.parent, at.name, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(UnpackFault::at("look at its folder"))?;
        if FileType::from_raw_mode(found.st_mode) == FileType::Symlink {
            self.passed_link = true;
            return match self.open_over_links(at.path)? {
                Some(folder) => Ok(folder),
                // It leads to nothing yet, or to a whiteout.
                None => self.make_target(at, totals),
            };
        }
        if !whiteout::is_whiteout(&found) {
            return Err(UnpackFault::NotADirectory(lossy(at.path)));
        }
        totals.remeasure = true;
        rustix::fs::unlinkat(at.parent, at.name, AtFlags::empty())
            .map_err(UnpackFault::at("make its folder"))?;
        let folder = self.make_one(at, totals)?;
        whiteout::set_opaque(&folder)?;
        Ok(folder)
    }

    /// Makes the folder that a dangling link names: `lib -> usr/lib` before anything is in `usr`.
    fn make_target(&mut self, at: Component<'_>, totals: &mut Totals<'_>) -> Result<OwnedFd, UnpackFault> {
        let links = at.links.checked_sub(1).ok_or(UnpackFault::LinkLoop)?;
        let target = rustix::fs::readlinkat(at.parent, at.name, Vec::new())
            .map_err(UnpackFault::at("read a link on its way"))?;
        let target = follow(&self.path_of(at.parent)?, target.to_bytes());
        self.open_or_make(&target, links, totals)
    }

    /// The path of an open folder from the root.
    fn path_of(&self, folder: &OwnedFd) -> Result<Vec<u8>, UnpackFault> {
        let path = |fd: &OwnedFd| {
            std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()))
                .map_err(UnpackFault::at("find a folder's own path"))
        };
        let (root, folder) = (path(&self.root)?, path(folder)?);
        let below = folder.strip_prefix(&root).unwrap_or(Path::new(""));
        Ok(below.as_os_str().as_bytes().to_vec())
    }

    /// The folder of a hard link's target, and the target's name in it.
    pub fn existing<'p>(&self, path: &'p [u8]) -> Result<(OwnedFd, &'p [u8]), Errno> {
        let (folder, name) = split(path);
        Ok((self.open_folder(folder, OFlags::empty())?, name))
    }
}
