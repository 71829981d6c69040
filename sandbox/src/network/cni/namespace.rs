//! Plugins need the pod's network namespace as a path. The path exists only for them, and only as long as the
//! pod.

use std::fs::{DirBuilder, DirEntry, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crisp_executor::ids::PodId;
use crisp_operation::record::remove_file;
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, mount_bind, unmount};

use crate::network::NetworkError;
use crate::network::error::file;

/// The folder that `ip netns` uses too.
const FOLDER: &str = "/run/netns";
/// `NSFS_MAGIC` of linux/magic.h.
const NSFS_MAGIC: i64 = 0x6e73_6673;

/// The prefix of the names.
const PREFIX: &str = "crisp-";

pub(super) fn path(pod: &PodId) -> PathBuf {
    Path::new(FOLDER).join(format!("{PREFIX}{}", pod.short()))
}

/// The paths of this form, of all servers, each with the beginning of a pod's id.
pub(crate) fn all() -> Vec<(PathBuf, String)> {
    let entries = std::fs::read_dir(FOLDER).into_iter().flatten().flatten();
    let named = entries.filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        let short = name.strip_prefix(PREFIX)?.to_owned();
        let is_id = short.len() == 12 && short.bytes().all(|byte| byte.is_ascii_hexdigit());
        is_id.then(|| (entry.path(), short))
    });
    named.collect()
}

/// Mounts the namespace at the path.
pub(super) fn publish(path: &Path, netns: BorrowedFd<'_>) -> Result<(), NetworkError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(FOLDER)
        .map_err(file("create folder", Path::new(FOLDER)))?;
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o444)
        .open(path)
        .map_err(file("create", path))?;
    let source = format!("/proc/self/fd/{}", netns.as_raw_fd());
    mount_bind(source, path).map_err(|e| file("mount the network namespace at", path)(e.into()))
}

/// Whether the namespace is mounted. After a reboot there are records without namespaces.
pub(crate) fn is_published(path: &Path) -> bool {
    rustix::fs::statfs(path).is_ok_and(|stat| stat.f_type == NSFS_MAGIC)
}

/// Whether the first thread of a process is in the namespace. Reads all of /proc.
pub(super) fn has_processes(path: &Path) -> bool {
    let identity = |path: &Path| std::fs::metadata(path).ok().map(|found| (found.dev(), found.ino()));
    let Some(wanted) = identity(path).filter(|_| is_published(path)) else { return false };
    let mut processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let of = |process: &DirEntry| format!("/proc/{}/ns/net", process.file_name().to_string_lossy());
    processes.any(|process| identity(Path::new(&of(&process))) == Some(wanted))
}

/// Removes the mount; succeeds if it is gone.
pub(crate) fn withdraw(path: &Path) -> Result<(), NetworkError> {
    match unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        // INVAL: not a mount.
        Ok(()) | Err(Errno::NOENT | Errno::INVAL) => {}
        Err(e) => return Err(file("unmount", path)(io::Error::from(e))),
    }
    // The folder stays: agents of the node have it mounted, and would not see namespaces in a new one.
    remove_file(path).map_err(file("remove", path))
}
