//! Opens the descriptors with which a process is started in a cgroup or moves itself there.

use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags, openat};
use rustix::io::Errno;

use super::error::CgroupError;
use super::hierarchy::{Controller, ControllerHierarchy, Extent, Hierarchy, Host};
use super::path::CgroupPath;

/// The descriptors with which a process is started in a cgroup, or moves itself into it; see
/// `plan::CgroupJoin`.
#[derive(Debug, Default)]
pub struct JoinFds {
    /// The v2 cgroup, opened as a directory.
    pub v2: Option<OwnedFd>,
    /// The v1 `tasks` files, open for writing.
    pub v1_tasks: Vec<OwnedFd>,
    /// `memory.events` or `memory.oom_control`, open for reading.
    pub oom_events: Option<OwnedFd>,
}

impl JoinFds {
    /// The same files by other descriptors.
    pub(super) fn try_clone(&self) -> Result<Self, Errno> {
        let clone = |fd: &OwnedFd| rustix::io::fcntl_dupfd_cloexec(fd, 0);
        Ok(Self {
            v2: self.v2.as_ref().map(clone).transpose()?,
            v1_tasks: self.v1_tasks.iter().map(clone).collect::<Result<_, _>>()?,
            oom_events: self.oom_events.as_ref().map(clone).transpose()?,
        })
    }
}

pub(super) fn join(host: &Host, path: &CgroupPath, extent: Extent) -> Result<JoinFds, CgroupError> {
    let missing = || CgroupError::NotFound { path: path.clone() };
    let mut fds = JoinFds::default();
    if let Some(v2) = &host.v2 {
        let dir = v2.dir(path)?.ok_or_else(missing)?;
        if matches!(host.hierarchy_of(Controller::Memory), Some(ControllerHierarchy::V2(_))) {
            fds.oom_events = dir.open_file("memory.events", OFlags::RDONLY).ok();
        }
        fds.v2 = Some(dir.into_fd());
    }
    for hierarchy in host.within(extent) {
        fds.v1_tasks.push(open_tasks(hierarchy, path)?);
        if hierarchy.has("memory") {
            fds.oom_events = open(hierarchy, path, "memory.oom_control", OFlags::RDONLY).ok();
        }
    }
    Ok(fds)
}

/// Whether a process may join `path`: the kernel's rule of no internal processes, cgroup-v2.rst.
pub(super) fn accepts_processes(host: &Host, path: &CgroupPath) -> Result<bool, CgroupError> {
    // v1 has no such rule, and the v2 tree beside it has no controllers.
    let Some(v2) = host.v2.as_ref().filter(|_| host.v1.is_empty()) else { return Ok(true) };
    let dir = v2.dir(path)?.ok_or_else(|| CgroupError::NotFound { path: path.clone() })?;
    let enabled = dir.read_all("cgroup.subtree_control")?.unwrap_or_default();
    Ok(enabled.trim().is_empty())
}

/// The `tasks` files of the v1 hierarchies of an extent, in their order.
pub(super) fn open_v1_tasks(
    host: &Host,
    path: &CgroupPath,
    extent: Extent,
) -> Result<Vec<OwnedFd>, CgroupError> {
    host.within(extent).map(|hierarchy| open_tasks(hierarchy, path)).collect()
}

fn open_tasks(hierarchy: &Hierarchy, path: &CgroupPath) -> Result<OwnedFd, CgroupError> {
    open(hierarchy, path, "tasks", OFlags::WRONLY).map_err(|errno| match errno {
        Errno::NOENT => CgroupError::NotFound { path: path.clone() },
        errno => CgroupError::Read { file: file(hierarchy, path, "tasks"), errno },
    })
}

/// In one call: there are about ten hierarchies, and a process is started in all of them.
fn open(hierarchy: &Hierarchy, path: &CgroupPath, file: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
    let relative = format!("{}/{file}", path.relative());
    openat(hierarchy.root(), relative, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}

fn file(hierarchy: &Hierarchy, path: &CgroupPath, file: &str) -> String {
    hierarchy.dir_path(path).join(file).display().to_string()
}
