//! Places in a container's root, found and made without ever leaving it.
//!
//! Every lookup is one `openat2` from the root's descriptor: links, absolute ones and `..` too, end
//! inside the root, and /proc's magic links are refused. What is missing is made one component at a
//! time below a descriptor, never through a link, so an image or a neighbour that shares a volume
//! can't have anything made on the host, however quickly it swaps folders for links.

use std::collections::VecDeque;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags, ResolveFlags, mkdirat, openat, openat2, readlinkat};
use rustix::io::Errno;

/// What is made when nothing is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Folder,
    File,
}

/// As many links as the kernel itself follows.
const LINKS: usize = 40;
/// `openat2` asks to be called again when a rename elsewhere made `..` uncertain.
const RACES: usize = 64;

/// Opens what `path` names in `root`, with `flags` and close-on-exec.
pub(crate) fn open(root: BorrowedFd<'_>, path: &CStr, flags: OFlags) -> Result<OwnedFd, Errno> {
    open_by(root, path, flags, ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS)
}

/// As [`find_or_make`] for a folder, but any link on the way is refused (`ELOOP`): for what other
/// paths are looked up in later, and must not move with a neighbour's volume.
pub(crate) fn find_or_make_without_links(root: BorrowedFd<'_>, path: &CStr) -> Result<OwnedFd, Errno> {
    match open_by(root, path, OFlags::PATH, ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS) {
        // With a dangling link in the path it would have been the other error.
        Err(Errno::NOENT) => make(root, path, Kind::Folder),
        other => other,
    }
}

fn open_by(
    root: BorrowedFd<'_>,
    path: &CStr,
    flags: OFlags,
    resolve: ResolveFlags,
) -> Result<OwnedFd, Errno> {
    for _ in 0..RACES {
        match openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            other => return other,
        }
    }
    Err(Errno::AGAIN)
}

/// Only names `path` in `root`: a descriptor to mount on or to make things in.
pub(crate) fn find(root: BorrowedFd<'_>, path: &CStr) -> Result<OwnedFd, Errno> {
    open(root, path, OFlags::PATH)
}

/// As [`find`]; what is missing is made, folders with 0755 and a file with 0644.
pub(crate) fn find_or_make(root: BorrowedFd<'_>, path: &CStr, kind: Kind) -> Result<OwnedFd, Errno> {
    match find(root, path) {
        Err(Errno::NOENT) => make(root, path, kind),
        other => other,
    }
}

/// A walk through the root: `here` is open at `path`, `rest` is still to go.
struct Walk<'a> {
    root: BorrowedFd<'a>,
    here: OwnedFd,
    path: Vec<u8>,
    rest: VecDeque<Vec<u8>>,
}

fn make(root: BorrowedFd<'_>, path: &CStr, kind: Kind) -> Result<OwnedFd, Errno> {
    let rest = lexically(path.to_bytes());
    let mut walk = Walk { root, here: find(root, c"/")?, path: Vec::new(), rest };
    let mut links = 0;
    while let Some(name) = walk.rest.pop_front() {
        let kind = if walk.rest.is_empty() { kind } else { Kind::Folder };
        if !walk.step(&name, kind)? {
            links += 1;
            if links > LINKS {
                return Err(Errno::LOOP);
            }
        }
    }
    Ok(walk.here)
}

impl Walk<'_> {
    /// Goes one component down, making it when missing. False: it was a link to nothing, which is
    /// now part of the rest.
    fn step(&mut self, name: &[u8], kind: Kind) -> Result<bool, Errno> {
        let next = [&self.path[..], b"/", name].concat();
        let next = CString::new(next).map_err(|_| Errno::INVAL)?;
        match find(self.root, &next) {
            Ok(found) => self.here = found,
            Err(Errno::NOENT) => match make_one(self.here.as_fd(), name, kind) {
                Ok(made) => self.here = made,
                Err(Errno::EXIST) => return self.splice(name).map(|()| false),
                Err(error) => return Err(error),
            },
            Err(error) => return Err(error),
        }
        self.path = next.into_bytes();
        Ok(true)
    }

    /// `name` is there but leads nowhere: a link whose end is missing. Its text replaces it.
    fn splice(&mut self, name: &[u8]) -> Result<(), Errno> {
        let text = match readlinkat(&self.here, name, Vec::new()) {
            Ok(text) => text.into_bytes(),
            // Somebody made it between the two looks: look again.
            Err(Errno::INVAL) => name.to_vec(),
            Err(error) => return Err(error),
        };
        if text.first() == Some(&b'/') {
            self.here = find(self.root, c"/")?;
            self.path.clear();
        }
        for part in components(&text).rev() {
            self.rest.push_front(part.to_vec());
        }
        Ok(())
    }
}

fn make_one(parent: BorrowedFd<'_>, name: &[u8], kind: Kind) -> Result<OwnedFd, Errno> {
    match kind {
        Kind::Folder => {
            mkdirat(parent, name, Mode::from_raw_mode(0o755))?;
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::DIRECTORY | OFlags::CLOEXEC;
            openat(parent, name, flags, Mode::empty())
        }
        Kind::File => {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            openat(parent, name, flags, Mode::from_raw_mode(0o644))
        }
    }
}

fn components(path: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    path.split(|&b| b == b'/').filter(|part| !part.is_empty() && *part != b".")
}

/// The components of a path from outside, `..` taken as text: what people mean by it.
fn lexically(path: &[u8]) -> VecDeque<Vec<u8>> {
    let mut parts = VecDeque::new();
    for part in components(path) {
        if part == b".." {
            parts.pop_back();
        } else {
            parts.push_back(part.to_vec());
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    fn root(dir: &Path) -> OwnedFd {
        openat(rustix::fs::CWD, dir, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap()
    }

    #[test]
    fn missing_folders_and_files_are_made() {
        let dir = tempfile::tempdir().unwrap();
        let root = root(dir.path());
        find_or_make(root.as_fd(), c"/a/b/../c/file", Kind::File).unwrap();
        assert!(dir.path().join("a/c/file").is_file());
        find_or_make(root.as_fd(), c"a//./d/", Kind::Folder).unwrap();
        assert!(dir.path().join("a/d").is_dir());
    }

    #[test]
    fn links_out_of_the_root_end_inside_it() {
        let outer = tempfile::tempdir().unwrap();
        let inner = outer.path().join("root");
        fs::create_dir_all(inner.join("etc")).unwrap();
        symlink("../../../../host", inner.join("etc/hosts")).unwrap();
        symlink("/abs/olute", inner.join("link")).unwrap();
        symlink(outer.path(), inner.join("outer")).unwrap();
        let root = root(&inner);
        find_or_make(root.as_fd(), c"/etc/hosts", Kind::File).unwrap();
        find_or_make(root.as_fd(), c"/link/x", Kind::Folder).unwrap();
        find_or_make(root.as_fd(), c"/outer/y", Kind::Folder).unwrap();
        assert!(inner.join("host").is_file());
        assert!(inner.join("abs/olute/x").is_dir());
        let mut names: Vec<_> = fs::read_dir(outer.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["root"], "nothing was made outside");
    }

    #[test]
    fn links_in_circles_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        symlink("b", dir.path().join("a")).unwrap();
        symlink("a", dir.path().join("b")).unwrap();
        let found = find_or_make(root(dir.path()).as_fd(), c"/a/x", Kind::Folder);
        assert_eq!(found.err(), Some(Errno::LOOP));
    }

    #[test]
    fn magic_links_are_refused() {
        let slash = root(Path::new("/"));
        assert_eq!(find(slash.as_fd(), c"/proc/self/fd/0").err(), Some(Errno::LOOP));
        assert_eq!(find(slash.as_fd(), c"/proc/self/root/etc").err(), Some(Errno::LOOP));
    }
}
