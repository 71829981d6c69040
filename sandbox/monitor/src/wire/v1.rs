//! Plans of protocol 1: postcard without names, so that the order of the fields is the format. Frozen:
//! monitors of that protocol, which live as long as their pods, read this.
//!
//! The conversions name every field of today's types: a change that adds one must decide here whether a
//! container of such a monitor may do without it, or is refused with [`EncodeError::Unsupported`].

use std::ffi::CString;

use crisp_executor::plan;
use serde::Serialize;

use super::EncodeError;

#[derive(Serialize)]
pub(super) struct Plan<'a> {
    process: Process<'a>,
    root: Root,
    mounts: Vec<Mount<'a>>,
    devices: Vec<Device<'a>>,
    masked_paths: &'a [CString],
    readonly_paths: &'a [CString],
    pid: PidNamespace,
    cgroup_namespace: bool,
    cgroup: CgroupJoin<'a>,
}

#[derive(Serialize)]
pub(super) struct ExecPlan<'a> {
    process: Process<'a>,
    cgroup: CgroupJoin<'a>,
}

#[derive(Serialize)]
struct Process<'a> {
    args: &'a [CString],
    env: &'a [CString],
    cwd: &'a CString,
    uid: u32,
    gid: u32,
    groups: &'a [u32],
    umask: Option<u32>,
    capabilities: [u64; 5],
    no_new_privileges: bool,
    rlimits: Vec<(u32, u64, u64)>,
    seccomp: Option<(&'a [u8], u32)>,
    oom_score_adj: Option<i32>,
    apparmor_profile: &'a Option<CString>,
    terminal: bool,
}

#[derive(Serialize)]
struct Root {
    mount: u16,
    readonly: bool,
    shared: bool,
}

#[derive(Serialize)]
struct Mount<'a> {
    target: &'a CString,
    kind: MountKind<'a>,
    attributes: u64,
}

#[derive(Serialize)]
enum MountKind<'a> {
    Bind { source: u16, file: bool },
    Proc,
    Sysfs,
    Tmpfs { options: &'a [CString] },
    Devpts { gid: u32 },
    Mqueue,
    PodShm,
    Cgroup2,
    Cgroup1 { hierarchies: &'a [CString], unified: bool },
}

#[derive(Serialize)]
struct Device<'a> {
    path: &'a CString,
    mode: u32,
    major: u32,
    minor: u32,
    uid: u32,
    gid: u32,
}

#[derive(Serialize)]
enum PidNamespace {
    Own,
    Pod,
    Host,
    Target(u16),
}

#[derive(Serialize)]
struct CgroupJoin<'a> {
    v2: Option<u16>,
    v1_tasks: &'a [plan::FdIndex],
    oom_events: Option<u16>,
}

impl<'a> Plan<'a> {
    pub(super) fn of(plan: &'a plan::Plan) -> Result<Self, EncodeError> {
        let plan::Plan {
            process,
            root: plan::Root { mount, readonly, shared },
            mounts,
            devices,
            masked_paths,
            readonly_paths,
            pid,
            cgroup_namespace,
            cgroup,
            // Refused for protocols below 4.
            hooks: _,
        } = plan;
        Ok(Self {
            process: Process::of(process)?,
            root: Root { mount: mount.0, readonly: *readonly, shared: *shared },
            mounts: mounts.iter().map(Mount::of).collect(),
            devices: devices.iter().map(Device::of).collect(),
            masked_paths,
            readonly_paths,
            pid: PidNamespace::of(*pid),
            cgroup_namespace: *cgroup_namespace,
            cgroup: CgroupJoin::of(cgroup),
        })
    }
}

impl<'a> ExecPlan<'a> {
    pub(super) fn of(process: &'a plan::Process, cgroup: &'a plan::CgroupJoin) -> Result<Self, EncodeError> {
        Ok(Self { process: Process::of(process)?, cgroup: CgroupJoin::of(cgroup) })
    }
}

impl<'a> Process<'a> {
    fn of(process: &'a plan::Process) -> Result<Self, EncodeError> {
        let plan::Process {
            args,
            env,
            cwd,
            uid,
            gid,
            groups,
            umask,
            capabilities: plan::Capabilities { bounding, effective, permitted, inheritable, ambient },
            no_new_privileges,
            rlimits,
            seccomp,
            oom_score_adj,
            apparmor_profile,
            terminal,
        } = process;
        let rlimit = |plan::Rlimit { resource, soft, hard }: &_| (*resource, *soft, *hard);
        Ok(Self {
            args,
            env,
            cwd,
            uid: *uid,
            gid: *gid,
            groups,
            umask: *umask,
            capabilities: [*bounding, *effective, *permitted, *inheritable, *ambient],
            no_new_privileges: *no_new_privileges,
            rlimits: rlimits.iter().map(rlimit).collect(),
            seccomp: seccomp.as_ref().map(|plan::Seccomp { program, flags }| (program.as_slice(), *flags)),
            oom_score_adj: *oom_score_adj,
            apparmor_profile,
            terminal: *terminal,
        })
    }
}

impl<'a> Mount<'a> {
    fn of(mount: &'a plan::Mount) -> Self {
        let plan::Mount { target, kind, attributes } = mount;
        let kind = match kind {
            plan::MountKind::Bind { source, file } => MountKind::Bind { source: source.0, file: *file },
            plan::MountKind::Proc => MountKind::Proc,
            plan::MountKind::Sysfs => MountKind::Sysfs,
            plan::MountKind::Tmpfs { options } => MountKind::Tmpfs { options },
            plan::MountKind::Devpts { gid } => MountKind::Devpts { gid: *gid },
            plan::MountKind::Mqueue => MountKind::Mqueue,
            plan::MountKind::PodShm => MountKind::PodShm,
            plan::MountKind::Cgroup2 => MountKind::Cgroup2,
            plan::MountKind::Cgroup1 { hierarchies, unified } => {
                MountKind::Cgroup1 { hierarchies, unified: *unified }
            }
        };
        Self { target, kind, attributes: *attributes }
    }
}

impl<'a> Device<'a> {
    fn of(device: &'a plan::Device) -> Self {
        let plan::Device { path, mode, major, minor, uid, gid } = device;
        Self { path, mode: *mode, major: *major, minor: *minor, uid: *uid, gid: *gid }
    }
}

impl PidNamespace {
    fn of(pid: plan::PidNamespace<plan::FdIndex>) -> Self {
        match pid {
            plan::PidNamespace::Own => Self::Own,
            plan::PidNamespace::Pod => Self::Pod,
            plan::PidNamespace::Host => Self::Host,
            plan::PidNamespace::Target(index) => Self::Target(index.0),
        }
    }
}

impl<'a> CgroupJoin<'a> {
    fn of(cgroup: &'a plan::CgroupJoin) -> Self {
        let plan::CgroupJoin { v2, v1_tasks, oom_events } = cgroup;
        Self { v2: v2.map(|index| index.0), v1_tasks, oom_events: oom_events.map(|index| index.0) }
    }
}
