//! The folders of the layer being unpacked, by descriptor.

use std::collections::HashMap;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::rc::Rc;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::UnpackFault;
use super::lossy;
use super::path::{follow, split};
use super::whiteout;

/// Open folders remembered; archives visit them mostly in order.
const REMEMBERED: usize = 32;
/// As many links as the kernel follows.
const MAX_LINKS: u32 = 40;
/// The mode of folders that an archive uses without having made them.
const IMPLIED_MODE: u32 = 0o755;

/// The layer's root and the folders in it that were used last.
pub(super) struct Tree {
    root: Rc<OwnedFd>,
    remembered: HashMap<Vec<u8>, Rc<OwnedFd>>,
    last: (Vec<u8>, Rc<OwnedFd>),
    /// Folders made because something in them came first.
    pub implied: Vec<Vec<u8>>,
}

impl Tree {
    pub fn open(root: &Path) -> Result<Self, UnpackFault> {
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let root = rustix::fs::openat(CWD, root, flags, Mode::empty())
            .map_err(UnpackFault::at("open the layer's folder"))?;
        let root = Rc::new(root);
        let last = (Vec::new(), Rc::clone(&root));
        Ok(Self { root, remembered: HashMap::new(), last, implied: Vec::new() })
    }

    pub fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// Opens a folder that exists. `path` is normalised; links in it are followed below the root.
    pub fn open_folder(&self, path: &[u8], more: OFlags) -> Result<OwnedFd, Errno> {
        let path = if path.is_empty() { b"." } else { path };
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC | more;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
        loop {
            match rustix::fs::openat2(&self.root, path, flags, Mode::empty(), resolve) {
                // A rename elsewhere on the system raced with a `..`.
                Err(Errno::AGAIN | Errno::INTR) => {}
                done => return done,
            }
        }
    }

    /// A folder to put something in, made where missing.
    pub fn folder(&mut self, path: &[u8]) -> Result<Rc<OwnedFd>, UnpackFault> {
        if self.last.0 == path {
            return Ok(Rc::clone(&self.last.1));
        }
        let folder = match self.remembered.get(path) {
            Some(folder) => Rc::clone(folder),
            None => {
                let folder = Rc::new(self.open_or_make(path, MAX_LINKS)?);
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

    /// To be called when a path may lead elsewhere than before.
    pub fn forget(&mut self) {
        self.remembered.clear();
        self.last = (Vec::new(), Rc::clone(&self.root));
    }

    fn open_or_make(&mut self, path: &[u8], links: u32) -> Result<OwnedFd, UnpackFault> {
        match self.open_folder(path, OFlags::empty()) {
            Ok(folder) => Ok(folder),
            Err(Errno::NOENT | Errno::NOTDIR) => self.make(path, links),
            Err(Errno::LOOP) => Err(UnpackFault::LinkLoop),
            Err(e) => Err(UnpackFault::at("open its folder")(e)),
        }
    }

    /// Makes the components of `path` that are missing.
    fn make(&mut self, path: &[u8], links: u32) -> Result<OwnedFd, UnpackFault> {
        let mut folder = self.open_folder(b"", OFlags::empty()).map_err(UnpackFault::at("open the root"))?;
        let mut end = 0;
        for component in path.split(|b| *b == b'/') {
            end += component.len();
            // The part so far, which may pass links.
            folder = match self.open_folder(&path[..end], OFlags::empty()) {
                Ok(next) => next,
                Err(Errno::NOENT | Errno::NOTDIR) => {
                    self.make_one(&folder, component, &path[..end], links)?
                }
                Err(Errno::LOOP) => return Err(UnpackFault::LinkLoop),
                Err(e) => return Err(UnpackFault::at("open its folder")(e)),
            };
            end += 1;
        }
        Ok(folder)
    }

    /// Makes one folder, whatever is at its place: nothing, a link that leads nowhere yet, or a whiteout.
    fn make_one(
        &mut self,
        parent: &OwnedFd,
        name: &[u8],
        path: &[u8],
        links: u32,
    ) -> Result<OwnedFd, UnpackFault> {
        let made = rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(IMPLIED_MODE));
        let hides_below = match made {
            Ok(()) => false,
            Err(Errno::EXIST) => {
                let found = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)
                    .map_err(UnpackFault::at("look at its folder"))?;
                if FileType::from_raw_mode(found.st_mode) == FileType::Symlink {
                    return self.make_target(parent, name, links);
                }
                if !whiteout::is_whiteout(&found) {
                    return Err(UnpackFault::NotADirectory(lossy(path)));
                }
                rustix::fs::unlinkat(parent, name, AtFlags::empty())
                    .and_then(|()| rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(IMPLIED_MODE)))
                    .map_err(UnpackFault::at("make its folder"))?;
                true
            }
            Err(e) => return Err(UnpackFault::at("make its folder")(e)),
        };
        let folder = self.open_folder(path, OFlags::NOFOLLOW).map_err(UnpackFault::at("open its folder"))?;
        rustix::fs::fchmod(&folder, Mode::from_raw_mode(IMPLIED_MODE))
            .map_err(UnpackFault::at("set the mode of its folder"))?;
        if hides_below {
            whiteout::set_opaque(&folder)?;
        }
        self.implied.push(path.to_vec());
        Ok(folder)
    }

    /// Makes the folder that a dangling link names: `lib -> usr/lib` before anything is in `usr`.
    fn make_target(&mut self, parent: &OwnedFd, name: &[u8], links: u32) -> Result<OwnedFd, UnpackFault> {
        let links = links.checked_sub(1).ok_or(UnpackFault::LinkLoop)?;
        let target = rustix::fs::readlinkat(parent, name, Vec::new())
            .map_err(UnpackFault::at("read a link on its way"))?;
        let target = follow(&self.path_of(parent)?, target.to_bytes());
        self.open_or_make(&target, links)
    }

    /// Where an open folder is, seen from the root.
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
