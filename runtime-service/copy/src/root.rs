//! The roots in which paths are resolved.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};

use crisp_executor::in_root::{self, InRootError};
use crisp_executor::user_namespace::IdMappings;
use rustix::fs::{CWD, FileType, Mode, OFlags, Stat, readlinkat};
use rustix::io::Errno;

use crate::CopyError;

/// The root in which paths are resolved.
#[derive(Debug)]
pub enum Root {
    /// The root directory of a container. Links end inside it; links of /proc that lead out of it are
    /// refused. `users`: the pod's user namespace, when it has one; ids in an archive are those that the
    /// container sees.
    Container { root: OwnedFd, users: Option<IdMappings> },
    /// The root directory of a container without the mounts that it has when it runs. Nothing is copied to or
    /// from the places of these mounts: the running container would not see it.
    Stopped(Stopped),
    /// The whole host.
    Host,
}

/// The root of a container that does not run, and the places of the mounts that it has when it runs.
#[derive(Debug)]
pub struct Stopped {
    root: OwnedFd,
    users: Option<IdMappings>,
    /// The places, with all links resolved.
    mounts: Vec<PathBuf>,
}

impl Root {
    /// Makes the root of a container that does not run. `mounts`: the places of its mounts. `users`: as in
    /// [`Root::Container`].
    ///
    /// # Errors
    /// The error of a place that cannot be looked up.
    pub fn stopped<'a>(
        root: OwnedFd,
        users: Option<IdMappings>,
        mounts: impl IntoIterator<Item = &'a Path>,
    ) -> Result<Self, CopyError> {
        let mounts = mounts.into_iter().map(|place| resolved(&root, place)).collect::<Result<_, _>>()?;
        Ok(Self::Stopped(Stopped { root, users, mounts }))
    }

    /// The user namespace, when the files have the owners of one.
    pub(crate) fn users(&self) -> Option<&IdMappings> {
        match self {
            Self::Container { users, .. } | Self::Stopped(Stopped { users, .. }) => users.as_ref(),
            Self::Host => None,
        }
    }

    pub(crate) fn open(&self, path: &str, flags: OFlags) -> Result<OwnedFd, CopyError> {
        let opened = match self {
            Self::Container { root, .. } | Self::Stopped(Stopped { root, .. }) => open_in(root, path, flags),
            Self::Host => rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::empty()),
        };
        match (opened, self) {
            (Err(Errno::NOENT), Self::Stopped(Stopped { root, .. }))
                if self.is_in_mount(&resolved(root, Path::new(path))?) =>
            {
                Err(CopyError::NotMounted { path: path.to_owned() })
            }
            (opened, _) => opened.map_err(CopyError::at(path)),
        }
    }

    /// The path of `found` in the root. Returns None when there are no places of mounts to compare it with.
    pub(crate) fn place_of(&self, found: &OwnedFd) -> Result<Option<PathBuf>, CopyError> {
        match self {
            Self::Stopped(_) => real_path(found).map(Some).map_err(CopyError::at("a path in the container")),
            Self::Container { .. } | Self::Host => Ok(None),
        }
    }

    /// Whether the container, when it runs, has a mount at this place or above it.
    pub(crate) fn is_in_mount(&self, place: &Path) -> bool {
        let Self::Stopped(Stopped { mounts, .. }) = self else { return false };
        mounts.iter().any(|mount| place.starts_with(mount))
    }
}

fn open_in(root: &OwnedFd, path: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
    in_root::open(root, path, flags).map_err(|error| match error {
        InRootError::Kernel { errno, .. } => errno,
        // Only other functions return these.
        InRootError::NotAFile { .. } | InRootError::TooLarge { .. } => Errno::INVAL,
    })
}

/// Resolves the links in `place` as far as it exists; the start of the container makes the rest.
fn resolved(root: &OwnedFd, place: &Path) -> Result<PathBuf, CopyError> {
    let mut parts: Vec<&std::ffi::OsStr> = Vec::new();
    for component in place.components() {
        match component {
            Component::Normal(name) => parts.push(name),
            Component::ParentDir => drop(parts.pop()),
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
    let mut missing = parts.len();
    loop {
        let there: PathBuf = std::iter::once("/".as_ref()).chain(parts[..missing].iter().copied()).collect();
        match open_in(root, &there.to_string_lossy(), OFlags::PATH).and_then(|found| real_path(&found)) {
            Ok(found) => return Ok(found.join(parts[missing..].iter().collect::<PathBuf>())),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) if missing > 0 => missing -= 1,
            Err(errno) => return Err(CopyError::at(&place.to_string_lossy())(errno)),
        }
    }
}

/// Returns the path of an open file by proc_pid_fd(5). For a mount that is in no mount table, the path begins
/// at the root of the mount.
fn real_path(found: &OwnedFd) -> Result<PathBuf, Errno> {
    let path = readlinkat(CWD, descriptor(found), Vec::new())?;
    Ok(PathBuf::from(std::ffi::OsStr::from_bytes(path.to_bytes())))
}

fn descriptor(found: impl AsFd) -> String {
    format!("/proc/self/fd/{}", found.as_fd().as_raw_fd())
}

pub(crate) fn kind(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

/// Opens the file of an `O_PATH` descriptor: the same file, even when its name now belongs to another one.
/// Only for regular files.
pub(crate) fn reopen(found: impl AsFd, flags: OFlags) -> Result<OwnedFd, Errno> {
    let flags = flags | OFlags::CLOEXEC | OFlags::NOCTTY;
    rustix::fs::open(descriptor(found), flags, Mode::empty())
}
