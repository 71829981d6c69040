//! Removes a cgroup and those that a container made below it.

use std::time::Duration;

use rustix::fs::AtFlags;
use rustix::io::Errno;

use super::error::CgroupError;
use super::hierarchy::{Hierarchy, Host};
use super::path::CgroupPath;
use super::tree;

/// Removes `path` in every hierarchy. All are tried, even after an error; the first error is returned.
pub(super) fn remove(host: &Host, path: &CgroupPath) -> Result<(), CgroupError> {
    let mut result = Ok(());
    for hierarchy in host.v1.iter().chain(&host.v2) {
        if let Err(errno) = remove_in(hierarchy, path) {
            result = result.and(Err(CgroupError::Remove { dir: hierarchy.dir_path(path), errno }));
        }
    }
    if let Some(v2) = host.hybrid() {
        prune(v2, path);
    }
    result
}

/// Removes the cgroups below `path` in every hierarchy. All are tried; the first error is returned.
pub(super) fn remove_below(host: &Host, path: &CgroupPath) -> Result<(), CgroupError> {
    let mut result = Ok(());
    for hierarchy in host.v1.iter().chain(&host.v2) {
        let removed = hierarchy.open(path).and_then(|dir| dir.map_or(Ok(()), tree::remove_below));
        if let Err(errno) = removed {
            result = result.and(Err(CgroupError::Remove { dir: hierarchy.dir_path(path), errno }));
        }
    }
    result
}

/// Removes the empty v2 parents of `path` on a hybrid host. The kubelet only makes and removes the v1 ones,
/// so these would stay forever. They are made again when needed.
fn prune(v2: &Hierarchy, path: &CgroupPath) {
    let mut above = path.parent();
    while let Some(level) = above {
        match rustix::fs::unlinkat(v2.root(), level.relative(), AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => above = level.parent(),
            // In use, which is the usual case.
            Err(_) => return,
        }
    }
}

/// Removes `path` if it is empty. Returns true when it is gone in all hierarchies.
pub(super) fn remove_if_empty(host: &Host, path: &CgroupPath) -> Result<bool, CgroupError> {
    let mut gone = true;
    for hierarchy in host.v1.iter().chain(&host.v2) {
        match rmdir(hierarchy, path) {
            Ok(()) => {}
            Err(Errno::BUSY | Errno::NOTEMPTY) => gone = false,
            Err(errno) => return Err(CgroupError::Remove { dir: hierarchy.dir_path(path), errno }),
        }
    }
    Ok(gone)
}

/// A process that has just died keeps its cgroup busy for a moment: wait 1, 2, 4 ... ms, a second in all.
#[expect(clippy::disallowed_methods, reason = "this runs on a thread of blocking work")]
pub(super) fn remove_in(hierarchy: &Hierarchy, path: &CgroupPath) -> Result<(), Errno> {
    let mut pause = Duration::from_millis(1);
    loop {
        match rmdir(hierarchy, path) {
            Err(Errno::BUSY) => {}
            other => return other,
        }
        let Some(dir) = hierarchy.open(path)? else { return Ok(()) };
        tree::remove_below(dir)?;
        match rmdir(hierarchy, path) {
            Err(Errno::BUSY) if pause < Duration::from_millis(512) => std::thread::sleep(pause),
            other => return other,
        }
        pause *= 2;
    }
}

/// Succeeds if it does not exist.
pub(super) fn rmdir(hierarchy: &Hierarchy, path: &CgroupPath) -> Result<(), Errno> {
    match rustix::fs::unlinkat(hierarchy.root(), path.relative(), AtFlags::REMOVEDIR) {
        Err(Errno::NOENT) => Ok(()),
        // Another call has removed it in the meantime.
        Err(Errno::NODEV) => Ok(()),
        other => other,
    }
}
