//! Paths inside a root: finds, reads and makes files without ever leaving it.
//!
//! Every lookup is one `openat2` from the root's descriptor: symbolic links, including absolute ones and
//! `..`, end inside the root, and /proc's magic links are refused. Missing parts are made one component at a
//! time below a descriptor, never through a link, so an image or a neighbour that shares a volume cannot
//! cause changes on the host, however fast it replaces folders with links.

mod make;

#[cfg(feature = "compile")]
use std::os::fd::AsRawFd;
use std::os::fd::{AsFd, OwnedFd};
#[cfg(feature = "compile")]
use std::path::PathBuf;

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;
use rustix::path::Arg;

pub use make::Kind;
pub(crate) use make::{find_or_make, find_or_make_without_links};

const INSIDE: ResolveFlags = ResolveFlags::IN_ROOT.union(ResolveFlags::NO_MAGICLINKS);
/// `openat2` returns EAGAIN when a rename elsewhere made `..` uncertain: the lookup is tried again.
const RACES: usize = 64;

/// Opens the file at `path` in `root`, with `flags` and close-on-exec.
pub(crate) fn resolve(root: impl AsFd, path: impl Arg + Copy, flags: OFlags) -> Result<OwnedFd, Errno> {
    resolve_by(root, path, flags, INSIDE)
}

/// Opens the file at `path` in `root` with `O_PATH`, for mounting on it or making files in it.
pub(crate) fn find(root: impl AsFd, path: impl Arg + Copy) -> Result<OwnedFd, Errno> {
    resolve(root, path, OFlags::PATH)
}

fn resolve_by(
    root: impl AsFd,
    path: impl Arg + Copy,
    flags: OFlags,
    resolve: ResolveFlags,
) -> Result<OwnedFd, Errno> {
    for _ in 0..RACES {
        match openat2(root.as_fd(), path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            other => return other,
        }
    }
    Err(Errno::AGAIN)
}

/// The reason why a path of an image cannot be used.
#[cfg(feature = "compile")]
#[derive(Debug, thiserror::Error)]
pub enum InRootError {
    #[error("{path:?} in the image: {errno}")]
    Kernel { path: PathBuf, errno: Errno },
    #[error("{path:?} in the image is not a regular file")]
    NotAFile { path: PathBuf },
    #[error("{path:?} in the image has more than {max} bytes")]
    TooLarge { path: PathBuf, max: usize },
}

#[cfg(feature = "compile")]
impl InRootError {
    /// Whether the path does not exist.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Kernel { errno: Errno::NOENT | Errno::NOTDIR, .. })
    }
}

/// Opens `path` of an image; `..` and absolute symbolic links end inside `root`.
///
/// # Errors
/// The kernel's error, with the path.
#[cfg(feature = "compile")]
pub fn open(root: impl AsFd, path: &str, flags: OFlags) -> Result<OwnedFd, InRootError> {
    resolve(root, path, flags).map_err(|errno| InRootError::Kernel { path: path.into(), errno })
}

/// Reads the whole content of a regular file of at most `max` bytes; None when it does not exist.
///
/// # Errors
/// A path that is not a regular file is refused and not opened: opening a device of an image runs its driver
/// (a watchdog starts), and a pipe can block the reader forever.
#[cfg(feature = "compile")]
pub fn read_file(root: impl AsFd, path: &str, max: usize) -> Result<Option<Vec<u8>>, InRootError> {
    let found = match open(root, path, OFlags::PATH) {
        Ok(found) => found,
        Err(e) if e.is_missing() => return Ok(None),
        Err(e) => return Err(e),
    };
    let kernel = |errno| InRootError::Kernel { path: path.into(), errno };
    let stat = rustix::fs::fstat(&found).map_err(kernel)?;
    if !rustix::fs::FileType::from_raw_mode(stat.st_mode).is_file() {
        return Err(InRootError::NotAFile { path: path.into() });
    }
    let same = format!("/proc/self/fd/{}", found.as_raw_fd());
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let fd = rustix::fs::open(same, flags, Mode::empty()).map_err(kernel)?;
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

#[cfg(all(test, feature = "compile"))]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_and_dots_end_inside() {
        let folder = tempfile::tempdir().unwrap();
        let root: OwnedFd = std::fs::File::open(folder.path()).unwrap().into();
        std::fs::create_dir(folder.path().join("etc")).unwrap();
        std::fs::write(folder.path().join("etc/passwd"), "inside").unwrap();
        symlink("/etc", folder.path().join("absolute")).unwrap();
        symlink("../../../../etc", folder.path().join("upward")).unwrap();
        for path in ["/etc/passwd", "../../etc/passwd", "absolute/passwd", "upward/passwd"] {
            assert_eq!(read_file(&root, path, 100).unwrap().as_deref(), Some(&b"inside"[..]), "{path}");
        }
        assert_eq!(read_file(&root, "/etc/shadow", 100).unwrap(), None);
        symlink("loop", folder.path().join("loop")).unwrap();
        assert_eq!(find(&root, "loop").err(), Some(Errno::LOOP));
        assert!(find(&root, "/proc/self/root").is_err());
    }

    #[test]
    fn only_regular_files_are_opened() {
        crisp_skip::needs!();
        let folder = tempfile::tempdir().unwrap();
        let root: OwnedFd = std::fs::File::open(folder.path()).unwrap().into();
        // A device number without a driver: opening it would return ENXIO.
        let device = rustix::fs::makedev(0, 240);
        let kind = rustix::fs::FileType::CharacterDevice;
        rustix::fs::mknodat(&root, "node", kind, Mode::RUSR, device).unwrap();
        std::fs::create_dir(folder.path().join("folder")).unwrap();
        for path in ["node", "folder"] {
            let error = read_file(&root, path, 100).unwrap_err();
            assert!(matches!(error, InRootError::NotAFile { .. }), "{path}: {error}");
        }
    }

    #[test]
    fn magic_links_are_refused() {
        let slash = std::fs::File::open("/").unwrap();
        assert_eq!(find(&slash, c"/proc/self/fd/0").err(), Some(Errno::LOOP));
        assert_eq!(find(&slash, c"/proc/self/root/etc").err(), Some(Errno::LOOP));
    }
}
