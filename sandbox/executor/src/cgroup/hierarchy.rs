//! Finds the host's cgroup hierarchies and their mount points.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode as FileMode, OFlags};
use rustix::io::Errno;

use super::dir::Dir;
use super::error::CgroupError;
use super::path::CgroupPath;
use crate::mount_table::unescape;

/// The controllers that this crate sets or reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Controller {
    Cpu,
    /// v1 only; part of cpu in v2.
    Cpuacct,
    Cpuset,
    /// v1 only; a BPF program in v2.
    Devices,
    /// v1 only; part of every v2 cgroup.
    Freezer,
    Hugetlb,
    /// `blkio` in v1.
    Io,
    Memory,
    Pids,
    Rdma,
}

/// The controllers that v2 cgroups enable for their children, if the host has them.
pub(super) const V2_WANTED: [&str; 8] = ["cpu", "cpuset", "hugetlb", "io", "memory", "misc", "pids", "rdma"];

impl Controller {
    pub(super) fn v1_name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cpuacct => "cpuacct",
            Self::Cpuset => "cpuset",
            Self::Devices => "devices",
            Self::Freezer => "freezer",
            Self::Hugetlb => "hugetlb",
            Self::Io => "blkio",
            Self::Memory => "memory",
            Self::Pids => "pids",
            Self::Rdma => "rdma",
        }
    }

    /// The name in `cgroup.controllers`; none where v2 needs no enabling.
    fn v2_name(self) -> Option<&'static str> {
        match self {
            Self::Cpu | Self::Cpuacct => Some("cpu"),
            Self::Cpuset => Some("cpuset"),
            Self::Hugetlb => Some("hugetlb"),
            Self::Io => Some("io"),
            Self::Memory => Some("memory"),
            Self::Pids => Some("pids"),
            Self::Rdma => Some("rdma"),
            Self::Devices | Self::Freezer => None,
        }
    }
}

/// The mode of a cgroup's folder: processes of any user in the container read it, so the server's umask,
/// which is meant for its own files, must not apply here.
pub(super) const FOLDER_MODE: u32 = 0o755;

/// One mounted hierarchy.
#[derive(Debug)]
pub(super) struct Hierarchy {
    pub mount: PathBuf,
    root: OwnedFd,
    /// Whether this process's umask removes permissions from new folders that the users of a container need.
    pub umask_hides: bool,
    /// v1: the controllers it was mounted with (or `name=systemd`); v2: what its root offers.
    pub controllers: Vec<String>,
}

impl Hierarchy {
    fn at(mount: PathBuf, controllers: Vec<String>) -> Result<Self, CgroupError> {
        let root =
            rustix::fs::open(&mount, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, FileMode::empty())
                .map_err(|e| CgroupError::Host { path: mount.clone(), source: e.into() })?;
        Ok(Self { mount, root, umask_hides: umask_hides(), controllers })
    }

    pub(super) fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.controllers.iter().any(|c| c == name)
    }

    pub(super) fn dir_path(&self, path: &CgroupPath) -> PathBuf {
        self.mount.join(path.relative())
    }

    /// The cgroup's folder in this hierarchy; None when it is not there.
    pub(super) fn dir(&self, path: &CgroupPath) -> Result<Option<Dir>, CgroupError> {
        self.open(path).map_err(|errno| CgroupError::Host { path: self.dir_path(path), source: errno.into() })
    }

    /// As [`Self::dir`], with the bare error.
    pub(super) fn open(&self, path: &CgroupPath) -> Result<Option<Dir>, Errno> {
        match Dir::open(self.root(), path.relative()) {
            Ok(dir) => Ok(Some(dir)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(errno),
        }
    }
}

/// All hierarchies of the host.
#[derive(Debug)]
pub(super) struct Host {
    pub v2: Option<Hierarchy>,
    pub v1: Vec<Hierarchy>,
}

/// The hierarchy with a controller's files.
pub(super) enum ControllerHierarchy<'a> {
    V1(&'a Hierarchy),
    V2(&'a Hierarchy),
}

/// The v1 hierarchies in which a cgroup is made. v2 has only one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Extent {
    All,
    /// Those that count and limit memory, CPU time and processes, the freezer, and the one by which systemd
    /// knows the processes of a service.
    Supervisor,
    /// None of them.
    V2Only,
}

const SUPERVISOR: [&str; 6] = ["cpu", "cpuacct", "memory", "pids", "freezer", "name=systemd"];

impl Extent {
    fn has(self, hierarchy: &Hierarchy) -> bool {
        match self {
            Self::All => true,
            Self::Supervisor => SUPERVISOR.iter().any(|name| hierarchy.has(name)),
            Self::V2Only => false,
        }
    }
}

impl Host {
    /// The v1 hierarchies of an extent.
    pub(super) fn within(&self, extent: Extent) -> impl Iterator<Item = &Hierarchy> {
        self.v1.iter().filter(move |hierarchy| extent.has(hierarchy))
    }

    pub(super) fn detect(mountinfo: &Path) -> Result<Self, CgroupError> {
        let text = std::fs::read_to_string(mountinfo)
            .map_err(|source| CgroupError::Host { path: mountinfo.to_owned(), source })?;
        Self::from_mountinfo(&text)
    }

    pub(super) fn from_mountinfo(text: &str) -> Result<Self, CgroupError> {
        let mut host = Self { v2: None, v1: Vec::new() };
        for mount in text.lines().filter_map(parse_mount) {
            match mount.controllers {
                None if host.v2.is_none() => host.v2 = Some(open_v2(mount.point)?),
                None => {}
                Some(controllers) => {
                    let known = host.v1.iter().any(|h| h.controllers == controllers);
                    if !known && !controllers.is_empty() {
                        host.v1.push(Hierarchy::at(mount.point, controllers)?);
                    }
                }
            }
        }
        if host.v2.is_none() && host.v1.is_empty() { Err(CgroupError::NoHierarchy) } else { Ok(host) }
    }

    /// The hierarchy with a controller's files, if there is one. On a hybrid host only v1 is used: the
    /// remaining controllers of its v2 tree are not worth the rules for enabling them.
    pub(super) fn hierarchy_of(&self, controller: Controller) -> Option<ControllerHierarchy<'_>> {
        if let Some(hierarchy) = self.v1.iter().find(|h| h.has(controller.v1_name())) {
            return Some(ControllerHierarchy::V1(hierarchy));
        }
        let v2 = self.v2.as_ref().filter(|_| self.v1.is_empty())?;
        controller.v2_name().is_none_or(|name| v2.has(name)).then_some(ControllerHierarchy::V2(v2))
    }

    /// The hierarchy in which exec cgroups are made.
    pub(super) fn exec_hierarchy(&self) -> Result<&Hierarchy, CgroupError> {
        let v1 = || ["freezer", "pids"].iter().find_map(|name| self.v1.iter().find(|h| h.has(name)));
        self.v2.as_ref().or_else(v1).or(self.v1.first()).ok_or(CgroupError::NoHierarchy)
    }

    /// The v2 tree beside v1 controllers, if the host has both.
    pub(super) fn hybrid(&self) -> Option<&Hierarchy> {
        self.v2.as_ref().filter(|_| !self.v1.is_empty())
    }
}

fn open_v2(mount: PathBuf) -> Result<Hierarchy, CgroupError> {
    let file = mount.join("cgroup.controllers");
    let text = std::fs::read_to_string(&file).map_err(|source| CgroupError::Host { path: file, source })?;
    Hierarchy::at(mount, text.split_whitespace().map(str::to_owned).collect())
}

struct CgroupMount {
    point: PathBuf,
    /// None: v2.
    controllers: Option<Vec<String>>,
}

/// `36 31 0:32 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct`; see proc(5).
fn parse_mount(line: &str) -> Option<CgroupMount> {
    let (mount, filesystem) = line.split_once(" - ")?;
    let point = unescape(mount.split(' ').nth(4)?);
    let mut fields = filesystem.split(' ');
    match fields.next()? {
        "cgroup2" => Some(CgroupMount { point, controllers: None }),
        "cgroup" => {
            let options = fields.nth(1)?;
            let controllers = options.split(',').filter(|o| is_controller(o)).map(str::to_owned).collect();
            Some(CgroupMount { point, controllers: Some(controllers) })
        }
        _ => None,
    }
}

/// Options of a v1 mount are its controllers (or a name) and a few words that are not.
fn is_controller(option: &str) -> bool {
    !matches!(
        option,
        "rw" | "ro" | "none" | "xattr" | "noprefix" | "clone_children" | "cpuset_v2_mode" | "seclabel"
    ) && !option.starts_with("release_agent=")
        && (!option.starts_with("name=") || option == "name=systemd")
        && !option.contains(':')
}

/// Also true when the umask cannot be read, as before Linux 4.7.
fn umask_hides() -> bool {
    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    let umask = status.lines().find_map(|line| line.strip_prefix("Umask:"));
    let umask = umask.and_then(|text| u32::from_str_radix(text.trim(), 8).ok());
    umask.is_none_or(|umask| umask & FOLDER_MODE != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn controllers_come_from_the_mount_options() {
        let line =
            "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct";
        let mount = parse_mount(line).unwrap();
        assert_eq!(mount.point, Path::new("/sys/fs/cgroup/cpu,cpuacct"));
        assert_eq!(mount.controllers.unwrap(), ["cpu", "cpuacct"]);
        let systemd =
            "40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,release_agent=/x,name=systemd";
        assert_eq!(parse_mount(systemd).unwrap().controllers.unwrap(), ["name=systemd"]);
        let foreign = "40 31 0:37 / /sys/fs/cgroup/x rw - cgroup cgroup rw,name=openrc";
        assert!(parse_mount(foreign).unwrap().controllers.unwrap().is_empty());
        assert!(parse_mount("1 1 0:1 / / rw - ext4 /dev/vda rw").is_none());
    }

    #[test]
    fn a_host_without_cgroups_is_named_so() {
        assert!(matches!(Host::from_mountinfo("1 1 0:1 / / rw - ext4 x rw"), Err(CgroupError::NoHierarchy)));
    }
}
