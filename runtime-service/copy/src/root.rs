//! Where paths begin.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};

use crisp_executor::in_root::{self, InRootError};
use crisp_executor::user_namespace::IdMappings;
use rustix::fs::{CWD, FileType, Mode, OFlags, Stat, readlinkat};
use rustix::io::Errno;

use crate::CopyError;

/// Where paths begin.
#[derive(Debug)]
pub enum Root {
    /// The root directory of a container: links end inside it, and those of /proc into other places are
    /// refused. `users`: of the pod's user namespace, when it has one: the ids of an archive are those that the
    /// container sees.
    Container { root: OwnedFd, users: Option<IdMappings> },
    /// The same without the mounts that it has when it runs. Nothing is copied to or from their places: it
    /// would not be seen there.
    Stopped(Stopped),
    /// The whole host.
    Host,
}

/// The root of a container that does not run, and where it has mounts when it does.
#[derive(Debug)]
pub struct Stopped {
    root: OwnedFd,
    users: Option<IdMappings>,
    /// Without links on the way.
    mounts: Vec<PathBuf>,
}

impl Root {
    /// The root of a container that does not run, with the places of its mounts. `users`: as of one that runs.
    ///
    /// # Errors
    /// A place that cannot be looked up.
    pub fn stopped<'a>(
        root: OwnedFd,
        users: Option<IdMappings>,
        mounts: impl IntoIterator<Item = &'a Path>,
    ) -> Result<Self, CopyError> {
        let mounts = mounts.into_iter().map(|place| resolved(&root, place)).collect::<Result<_, _>>()?;
        Ok(Self::Stopped(Stopped { root, users, mounts }))
    }

    /// Of a user namespace, when the files have the owners of one.
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

    /// Where `found` is in the root. None: it does not matter, for there are no places to keep away from.
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
        // Of other functions.
        InRootError::NotAFile { .. } | InRootError::TooLarge { .. } => Errno::INVAL,
    })
}

/// The place without links, as far as it exists; the rest is made by the start of the container.
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

/// proc_pid_fd(5): of a mount that is in no mount table, the path begins at its root.
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

/// Opens what an `O_PATH` descriptor stands for: exactly that, whatever has its name by now. Only for what is
/// known to be a regular file.
pub(crate) fn reopen(found: impl AsFd, flags: OFlags) -> Result<OwnedFd, Errno> {
    let flags = flags | OFlags::CLOEXEC | OFlags::NOCTTY;
    rustix::fs::open(descriptor(found), flags, Mode::empty())
}
