//! Makes the missing parts of a path inside a root.

use std::collections::VecDeque;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags, ResolveFlags, fchmod, mkdirat, openat, readlinkat};
use rustix::io::Errno;

use super::{find, resolve_by};

/// The kind of file that is made when the path does not exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Folder,
    File,
}

/// The maximum number of links in a path; the kernel has the same.
const LINKS: usize = 40;

/// Like [`find`], but makes missing files: folders with mode 0755 and a file with 0644.
pub(crate) fn find_or_make(root: BorrowedFd<'_>, path: &CStr, kind: Kind) -> Result<OwnedFd, Errno> {
    match find(root, path) {
        Err(Errno::NOENT) => make(root, path, kind),
        other => other,
    }
}

/// Like [`find_or_make`], but refuses any link in the path (`ELOOP`): for folders in which other paths are
/// looked up later, and which must not change with a neighbour's volume.
pub(crate) fn find_or_make_without_links(
    root: BorrowedFd<'_>,
    path: &CStr,
    kind: Kind,
) -> Result<OwnedFd, Errno> {
    match resolve_by(root, path, OFlags::PATH, ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS) {
        // With a dangling link in the path it would have been the other error.
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
    /// Goes one component down, and makes it if it is missing. Returns false for a dangling link, whose
    /// target is now part of the rest.
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

    /// Replaces `name`, which is a dangling link, by its target.
    fn splice(&mut self, name: &[u8]) -> Result<(), Errno> {
        let text = match readlinkat(&self.here, name, Vec::new()) {
            Ok(text) => text.into_bytes(),
            // It was made between the two lookups: look it up again.
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

/// Makes one file or folder. Its mode does not depend on the umask of this process: the users of the image
/// need it.
fn make_one(parent: BorrowedFd<'_>, name: &[u8], kind: Kind) -> Result<OwnedFd, Errno> {
    let flags = OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let (made, mode) = match kind {
        Kind::Folder => {
            let mode = Mode::from_raw_mode(0o755);
            mkdirat(parent, name, mode)?;
            (openat(parent, name, flags | OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())?, mode)
        }
        Kind::File => {
            let mode = Mode::from_raw_mode(0o644);
            (openat(parent, name, flags | OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL, mode)?, mode)
        }
    };
    fchmod(&made, mode)?;
    Ok(made)
}

fn components(path: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    path.split(|&b| b == b'/').filter(|part| !part.is_empty() && *part != b".")
}

/// The components of a path from outside; `..` removes the component before it.
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
    fn missing_folders_and_files_are_made_with_their_modes() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let root = root(dir.path());
        let mode = |path: &str| fs::metadata(dir.path().join(path)).unwrap().permissions().mode() & 0o7777;
        find_or_make(root.as_fd(), c"/a/b/../c/file", Kind::File).unwrap();
        assert!(dir.path().join("a/c/file").is_file());
        find_or_make(root.as_fd(), c"a//./d/", Kind::Folder).unwrap();
        assert!(dir.path().join("a/d").is_dir());
        assert_eq!((mode("a/c"), mode("a/c/file")), (0o755, 0o644));
        let below_a_file = find_or_make(root.as_fd(), c"a/c/file/x", Kind::Folder);
        assert_eq!(below_a_file.err(), Some(Errno::NOTDIR));
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
}
