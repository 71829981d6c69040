//! Requests as callers write them: descriptors by name, plans by reference.

use crisp_executor::id::ContainerId;
use crisp_executor::plan::{CgroupJoin, Plan, Process};
use crisp_monitor::wire::request as body;
use rustix::fd::OwnedFd;
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::Errno;
use serde::Serialize;

use super::reader::Shared;
use super::{LinkError, WindowSize};

/// What a pod is to be.
#[derive(Debug)]
pub struct OpenPod {
    /// A UTS namespace of its own with this name. None: the host's.
    pub hostname: Option<String>,
    /// A network namespace of its own.
    pub network: bool,
    /// An IPC namespace and shared memory of its own; else the host's.
    pub ipc: bool,
    /// A PID namespace that containers can share.
    pub shared_pid: bool,
    /// Dotted or slashed names, set inside the namespaces.
    pub sysctls: Vec<(String, String)>,
    /// Limit of the pod's shared memory.
    pub shm_bytes: u64,
    /// The folder in which exits are noted.
    pub exits: OwnedFd,
    /// Folder of the v2 cgroup that the monitor joins.
    pub cgroup_v2: Option<OwnedFd>,
    /// `tasks` files, open for writing, of the v1 cgroups that the monitor joins.
    pub cgroup_v1_tasks: Vec<OwnedFd>,
}

/// A container to start.
#[derive(Debug)]
pub struct StartRequest<'a> {
    pub container: ContainerId,
    pub plan: &'a Plan,
    /// The plan's descriptors.
    pub fds: Vec<OwnedFd>,
    /// Open for appending. None: the output is discarded.
    pub log: Option<OwnedFd>,
    /// Keep stdin open for [`open_stdin`](super::MonitorLink::open_stdin); else it is a null device.
    pub stdin: bool,
    /// For a plan with a terminal.
    pub size: Option<WindowSize>,
}

/// A process to start in a container.
#[derive(Debug)]
pub struct ExecRequest<'a> {
    /// From [`next_exec_id`](super::MonitorLink::next_exec_id), or any that no living exec of this link has.
    pub exec_id: u64,
    pub container: ContainerId,
    pub process: &'a Process,
    pub cgroup: &'a CgroupJoin,
    /// The descriptors of `cgroup`.
    pub fds: Vec<OwnedFd>,
    /// None: a null device.
    pub stdin: Option<OwnedFd>,
    pub stdout: Option<OwnedFd>,
    pub stderr: Option<OwnedFd>,
    /// For a process with a terminal.
    pub size: Option<WindowSize>,
}

/// As [`body::ExecPlan`], borrowed: the same bytes.
#[derive(Serialize)]
struct ExecPlan<'a> {
    process: &'a Process,
    cgroup: &'a CgroupJoin,
}

impl OpenPod {
    pub(super) fn into_parts(self) -> (body::OpenPod, Vec<OwnedFd>) {
        let body = body::OpenPod {
            hostname: self.hostname,
            network: self.network,
            ipc: self.ipc,
            shared_pid: self.shared_pid,
            sysctls: self.sysctls,
            shm_bytes: self.shm_bytes,
            cgroup_v2: self.cgroup_v2.is_some(),
            cgroup_v1: u16::try_from(self.cgroup_v1_tasks.len()).unwrap_or(u16::MAX),
        };
        let fds = [self.exits].into_iter().chain(self.cgroup_v2).chain(self.cgroup_v1_tasks).collect();
        (body, fds)
    }
}

impl StartRequest<'_> {
    pub(super) fn into_parts(self, link: &Shared) -> Result<(body::Start, Vec<OwnedFd>), LinkError> {
        let plan = in_memory(self.plan, c"crisp-plan", link, "start")?;
        let body = body::Start {
            container: self.container,
            log: self.log.is_some(),
            stdin: self.stdin,
            size: self.size,
        };
        Ok((body, [plan].into_iter().chain(self.log).chain(self.fds).collect()))
    }
}

impl ExecRequest<'_> {
    pub(super) fn into_parts(self, link: &Shared) -> Result<(body::Exec, Vec<OwnedFd>), LinkError> {
        let plan = ExecPlan { process: self.process, cgroup: self.cgroup };
        let plan = in_memory(&plan, c"crisp-exec", link, "exec")?;
        let body = body::Exec {
            exec: self.exec_id,
            container: self.container,
            stdin: self.stdin.is_some(),
            stdout: self.stdout.is_some(),
            stderr: self.stderr.is_some(),
            size: self.size,
        };
        let streams = self.stdin.into_iter().chain(self.stdout).chain(self.stderr);
        Ok((body, [plan].into_iter().chain(streams).chain(self.fds).collect()))
    }
}

fn in_memory(
    value: &impl Serialize,
    name: &std::ffi::CStr,
    link: &Shared,
    request: &'static str,
) -> Result<OwnedFd, LinkError> {
    let bytes = postcard::to_allocvec(value).map_err(|error| link.protocol(request, &error.to_string()))?;
    filled_memfd(name, MemfdFlags::CLOEXEC, &bytes).map_err(|errno| link.system(request, errno))
}

/// A memfd that holds `bytes`.
pub(crate) fn filled_memfd(name: &std::ffi::CStr, flags: MemfdFlags, bytes: &[u8]) -> Result<OwnedFd, Errno> {
    let file = memfd_create(name, flags)?;
    let mut left = bytes;
    while !left.is_empty() {
        match rustix::io::write(&file, left) {
            Ok(n) => left = &left[n..],
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(file)
}
