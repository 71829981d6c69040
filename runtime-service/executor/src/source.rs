//! Sources of bind mounts: host paths turned into detached mounts, within a deadline.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::io::Errno;

/// How mounts made later on one side are seen on the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Propagation {
    #[default]
    Private,
    /// Host to container (`rslave`).
    HostToContainer,
    /// Both ways (`rshared`).
    Bidirectional,
}

/// What the detached mount shall be like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    pub readonly: bool,
    /// Read-only with everything mounted below it.
    pub recursive_readonly: bool,
    pub nosuid: bool,
    pub nodev: bool,
    pub noexec: bool,
    /// Whether mounts below the path come along (`rbind`).
    pub recursive: bool,
    pub propagation: Propagation,
    pub deadline: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            readonly: false,
            recursive_readonly: false,
            nosuid: false,
            nodev: false,
            noexec: false,
            recursive: true,
            propagation: Propagation::Private,
            deadline: Duration::from_secs(10),
        }
    }
}

/// A host path as a detached mount.
#[derive(Debug)]
pub struct Source {
    pub mount: OwnedFd,
    /// Not a folder: the target must be a file.
    pub file: bool,
}

/// Why a host path cannot be mounted.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    #[error("host path {path:?} does not exist")]
    Missing { path: PathBuf },
    #[error(
        "host path {path:?}: no answer within {deadline:?}; the file system it is on is dead or overloaded"
    )]
    Deadline { path: PathBuf, deadline: Duration },
    #[error("host path {path:?}: {step}: {errno}{hint}")]
    Kernel { path: PathBuf, step: &'static str, errno: Errno, hint: &'static str },
}

/// # Errors
/// Names the path, and the deadline when that has passed.
pub fn open(path: &Path, _options: &Options) -> Result<Source, SourceError> {
    Err(SourceError::Kernel { path: path.to_owned(), step: "open", errno: Errno::NOSYS, hint: "" })
}
