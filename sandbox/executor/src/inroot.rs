//! Looking things up inside a root without ever leaving it.

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// Why a path inside a root cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum InRootError {
    #[error("{path:?} in the image: {errno}")]
    Kernel { path: PathBuf, errno: Errno },
    #[error("{path:?} in the image is not a regular file")]
    NotAFile { path: PathBuf },
    #[error("{path:?} in the image has more than {max} bytes")]
    TooLarge { path: PathBuf, max: usize },
}

impl InRootError {
    /// Whether the path simply is not there.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Kernel { errno: Errno::NOENT | Errno::NOTDIR, .. })
    }
}

const RESOLVE: ResolveFlags = ResolveFlags::IN_ROOT.union(ResolveFlags::NO_MAGICLINKS);

/// Opens `path` below `root`; `..`, absolute symbolic links and the like end inside it.
///
/// # Errors
/// The kernel's, with the path.
pub fn open(root: impl AsFd, path: &str, flags: OFlags) -> Result<OwnedFd, InRootError> {
    open_mode(root, path, flags, Mode::empty())
}

fn open_mode(root: impl AsFd, path: &str, flags: OFlags, mode: Mode) -> Result<OwnedFd, InRootError> {
    // The kernel gives EAGAIN when something was renamed during the walk.
    for _ in 0..32 {
        match rustix::fs::openat2(root.as_fd(), path, flags | OFlags::CLOEXEC, mode, RESOLVE) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            other => return other.map_err(|errno| InRootError::Kernel { path: path.into(), errno }),
        }
    }
    Err(InRootError::Kernel { path: path.into(), errno: Errno::AGAIN })
}

/// Whether `path` leads to something below `root`.
///
/// # Errors
/// What is neither yes nor no, such as a loop of symbolic links.
pub fn exists(root: impl AsFd, path: &str) -> Result<bool, InRootError> {
    match open(root, path, OFlags::PATH) {
        Ok(_) => Ok(true),
        Err(e) if e.is_missing() => Ok(false),
        Err(e) => Err(e),
    }
}

/// The whole content of a regular file of at most `max` bytes; None when it is not there.
///
/// # Errors
/// A path that is no regular file is refused, so that no pipe or device of an image can hang the
/// reader.
pub fn read_file(root: impl AsFd, path: &str, max: usize) -> Result<Option<Vec<u8>>, InRootError> {
    let fd = match open(root, path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY) {
        Ok(fd) => fd,
        Err(e) if e.is_missing() => return Ok(None),
        Err(e) => return Err(e),
    };
    let kernel = |errno| InRootError::Kernel { path: path.into(), errno };
    let stat = rustix::fs::fstat(&fd).map_err(kernel)?;
    if !rustix::fs::FileType::from_raw_mode(stat.st_mode).is_file() {
        return Err(InRootError::NotAFile { path: path.into() });
    }
    let mut content = Vec::new();
    let mut chunk = [0u8; 8192];
    loop {
        match rustix::io::read(&fd, &mut chunk) {
            Ok(0) => return Ok(Some(content)),
            Ok(n) if content.len() + n > max => return Err(InRootError::TooLarge { path: path.into(), max }),
            Ok(n) => content.extend_from_slice(&chunk[..n]),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(kernel(errno)),
        }
    }
}

/// Makes the folder `path` with all that is missing above it, mode 0755, and opens it (`O_PATH`).
/// Symbolic links on the way are followed inside the root; a dangling one is an error.
///
/// # Errors
/// The kernel's, with the part of the path that it is about.
pub fn mkdir_all(root: impl AsFd, path: &str) -> Result<OwnedFd, InRootError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    let mut done = String::from("/");
    let mut at = open(root.as_fd(), "/", flags)?;
    for part in path.split('/').filter(|p| !p.is_empty() && *p != ".") {
        let parent = at;
        if done.len() > 1 {
            done.push('/');
        }
        done.push_str(part);
        at = match open(root.as_fd(), &done, flags) {
            Err(e) if e.is_missing() => {
                make_folder(&parent, part)
                    .map_err(|errno| InRootError::Kernel { path: done.clone().into(), errno })?;
                open(root.as_fd(), &done, flags)?
            }
            other => other?,
        };
    }
    Ok(at)
}

/// Mode 0755 whatever the umask of this process says: it is for the users of the image.
fn make_folder(parent: &OwnedFd, name: &str) -> Result<(), Errno> {
    let mode = Mode::from_raw_mode(0o755);
    match rustix::fs::mkdirat(parent, name, mode) {
        Ok(()) => {
            // Opened before its mode is changed: what the name stands for may be exchanged.
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let made = rustix::fs::openat(parent, name, flags, Mode::empty())?;
            rustix::fs::fchmod(&made, mode)
        }
        Err(Errno::EXIST) => Ok(()),
        Err(errno) => Err(errno),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn root() -> (tempfile::TempDir, OwnedFd) {
        let folder = tempfile::tempdir().unwrap();
        let fd = std::fs::File::open(folder.path()).unwrap().into();
        (folder, fd)
    }

    #[test]
    fn links_and_dots_end_inside() {
        let (folder, root) = root();
        std::fs::create_dir(folder.path().join("etc")).unwrap();
        std::fs::write(folder.path().join("etc/passwd"), "inside").unwrap();
        symlink("/etc", folder.path().join("absolute")).unwrap();
        symlink("../../../../etc", folder.path().join("upward")).unwrap();
        for path in ["/etc/passwd", "../../etc/passwd", "absolute/passwd", "upward/passwd"] {
            assert_eq!(read_file(&root, path, 100).unwrap().as_deref(), Some(&b"inside"[..]), "{path}");
        }
        assert!(!exists(&root, "/etc/shadow").unwrap());
        symlink("loop", folder.path().join("loop")).unwrap();
        assert!(exists(&root, "loop").is_err());
        assert!(open(&root, "/proc/self/root", OFlags::PATH).is_err());
    }

    #[test]
    fn folders_are_made_where_links_lead_inside() {
        let (folder, root) = root();
        std::fs::create_dir(folder.path().join("real")).unwrap();
        symlink("/real", folder.path().join("link")).unwrap();
        mkdir_all(&root, "/link/a//b/./c/").unwrap();
        let mode = std::fs::metadata(folder.path().join("real/a/b/c")).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o755);
        std::fs::write(folder.path().join("file"), "").unwrap();
        assert!(mkdir_all(&root, "file/x").is_err());
    }
}
