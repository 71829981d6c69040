//! The errors of cgroups.

use std::path::PathBuf;
use std::time::Duration;

use rustix::io::Errno;

use super::path::{CgroupPath, InvalidCgroupPath};

/// Every message names the file, and the value when there was one.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    #[error(transparent)]
    Path(#[from] InvalidCgroupPath),
    #[error("no cgroup hierarchy is mounted: mount cgroup2 at /sys/fs/cgroup")]
    NoHierarchy,
    #[error("cannot read {path}: {source}", path = path.display())]
    Host { path: PathBuf, source: std::io::Error },
    #[error("cgroup {path} does not exist")]
    NotFound { path: CgroupPath },
    #[error(
        "cgroup {path} is gone: the program that made it has removed it, so that nothing can be made below it"
    )]
    Gone { path: CgroupPath },
    #[error("cannot create cgroup {dir}: {errno}{hint}", dir = dir.display())]
    Create { dir: PathBuf, errno: Errno, hint: &'static str },
    #[error("cgroup file {file}: cannot write {value}: {errno}{hint}")]
    Write { file: String, value: String, errno: Errno, hint: &'static str },
    #[error("cgroup file {file}: cannot read: {errno}")]
    Read { file: String, errno: Errno },
    #[error("cgroup {path}: this host has no {controller} controller for it{hint}")]
    NoController { path: CgroupPath, controller: &'static str, hint: &'static str },
    #[error("{field}: {reason}")]
    Invalid { field: String, reason: String },
    #[error("cgroup {path}: {count} processes are left after SIGKILL and {waited_ms} ms")]
    StillPopulated { path: CgroupPath, count: usize, waited_ms: u64 },
    #[error(
        "cgroup {path}: not all processes were paused within {waited:?}, and all go on: one may wait for a device or a network file system"
    )]
    NotFrozen { path: CgroupPath, waited: Duration },
    #[error("cannot remove cgroup {dir}: {errno}", dir = dir.display())]
    Remove { dir: PathBuf, errno: Errno },
    #[error("cgroup {path}: cannot load the device filter: {errno}{hint}")]
    DeviceFilter { path: CgroupPath, errno: Errno, hint: &'static str },
}
