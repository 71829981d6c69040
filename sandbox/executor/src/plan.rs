//! The plan: a container's OCI spec after everything that can be decided, checked or opened before the start.
//! `compile` makes it in the server, `run` executes it in the monitor, and it is sent between them as bytes
//! and descriptors.
//!
//! A plan needs no lookup on the host: sources of mounts are descriptors, users are numbers, the seccomp
//! filter is a BPF program.

use std::ffi::CString;

use serde::{Deserialize, Serialize};

/// A descriptor that is sent with the plan, identified by its position.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FdIndex(pub u16);

/// The inputs for starting a container's first process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    pub process: Process,
    pub root: Root,
    /// The mounts, in the order in which they are attached.
    pub mounts: Vec<Mount>,
    /// The nodes to make in the container's own /dev.
    pub devices: Vec<Device>,
    /// Paths to mask with /dev/null (files) or an empty read-only tmpfs (folders). Missing paths are skipped.
    pub masked_paths: Vec<CString>,
    /// Paths to remount read-only. Missing paths are skipped.
    pub readonly_paths: Vec<CString>,
    pub pid: PidNamespace<FdIndex>,
    /// Whether the container has its own cgroup namespace (always, unless it uses that of the host).
    pub cgroup_namespace: bool,
    pub cgroup: CgroupJoin,
    /// None if no hook has to do with the start.
    #[serde(default)]
    pub hooks: Option<Hooks>,
}

/// The hooks of a container, as far as its start takes part in them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hooks {
    /// None if there are none of these: prestart, createRuntime, createContainer.
    pub pause: Option<HookPause>,
    /// The programs of the container that run before its process.
    pub start_container: Vec<StartHook>,
    /// The state of the container for `start_container`, without the pid: a JSON object without its closing brace.
    #[serde(with = "serde_bytes")]
    pub state: Vec<u8>,
}

/// A pause before the switch to the container's root, in which another process runs hooks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HookPause {
    /// A socket of [`crate::hook::Pause`]. None: the pause is reported as [`crate::run::Progress::Prepared`].
    pub socket: Option<FdIndex>,
    /// The file systems of the host, a detached tree. It is the root of the container's mount namespace during the
    /// pause, as with runc.
    pub host: FdIndex,
    /// The folder in it at which the container's root is attached.
    pub root: CString,
}

/// A hook that is a program of the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartHook {
    pub path: CString,
    pub args: Vec<CString>,
    pub env: Vec<CString>,
    pub timeout_ms: u32,
}

/// A process: the first one of a container, or an exec.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Never empty. If `args[0]` has no slash, it is searched in the PATH of `env`.
    pub args: Vec<CString>,
    /// `NAME=value`, without duplicates.
    pub env: Vec<CString>,
    /// An absolute path. For the first process of a container it is made (0755) if it is missing.
    pub cwd: CString,
    pub uid: u32,
    pub gid: u32,
    /// The whole supplementary list; always set, also when empty.
    pub groups: Vec<u32>,
    pub umask: Option<u32>,
    pub capabilities: Capabilities,
    pub no_new_privileges: bool,
    pub rlimits: Vec<Rlimit>,
    /// `struct sock_filter` array, 8 bytes each, host byte order. None: unconfined.
    pub seccomp: Option<Seccomp>,
    /// The executor limits it to the values that it is allowed to set.
    pub oom_score_adj: Option<i32>,
    /// The AppArmor profile to change to on exec.
    pub apparmor_profile: Option<CString>,
    /// Whether the process gets a controlling terminal instead of pipes.
    pub terminal: bool,
}

/// Five capability sets as bit masks (bit n = capability number n).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities {
    pub bounding: u64,
    pub effective: u64,
    pub permitted: u64,
    pub inheritable: u64,
    pub ambient: u64,
}

impl Process {
    /// Whether it may inspect other processes, or get that right: CAP_SYS_PTRACE.
    #[must_use]
    pub fn may_trace(&self) -> bool {
        const SYS_PTRACE: u64 = 1 << 19;
        let Capabilities { bounding, effective, permitted, inheritable, ambient } = self.capabilities;
        (bounding | effective | permitted | inheritable | ambient) & SYS_PTRACE != 0
    }
}

/// One resource limit; `resource` is the RLIMIT_ number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rlimit {
    pub resource: u32,
    pub soft: u64,
    pub hard: u64,
}

/// A compiled seccomp filter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seccomp {
    #[serde(with = "serde_bytes")]
    pub program: Vec<u8>,
    /// SECCOMP_FILTER_FLAG_ bits.
    pub flags: u32,
}

/// The container's root: a detached mount, attached by the child.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Root {
    pub mount: FdIndex,
    /// Whether the root is made read-only, after every mount target exists.
    pub readonly: bool,
    /// The propagation of the root itself: true = shared (needed by bidirectional volumes), else private or
    /// slave.
    pub shared: bool,
}

/// A mount below the root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Absolute path in the container; it is resolved without leaving the root.
    pub target: CString,
    pub kind: MountKind,
    /// MOUNT_ATTR_ bits (RDONLY, NOSUID, NODEV, NOEXEC, ...) for the mounts that the child makes itself; a
    /// bind mount has its own.
    pub attributes: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountKind {
    /// A detached tree whose attributes and propagation are already set. `file`: whether the target is a
    /// file.
    Bind {
        source: FdIndex,
        file: bool,
    },
    Proc,
    Sysfs,
    /// `options` in the form of fsconfig: `size=65536k`, `mode=755`, ...
    Tmpfs {
        options: Vec<CString>,
    },
    /// A new instance with ptmxmode 0666, mode 0620 and this gid.
    Devpts {
        gid: u32,
    },
    Mqueue,
    /// The pod's shared /dev/shm, which is in the monitor's root at /shm.
    PodShm,
    /// cgroup2 at the target.
    Cgroup2,
    /// A tmpfs at the target with one folder per v1 hierarchy, each named by its controllers (`cpu,cpuacct`),
    /// and symbolic links with the single names of controllers that share one.
    Cgroup1 {
        hierarchies: Vec<CString>,
        unified: bool,
    },
}

/// A device node in the container's /dev, with mode and owner.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    pub path: CString,
    /// `S_IFCHR` or `S_IFBLK` or `S_IFIFO`, or'ed with permission bits.
    pub mode: u32,
    pub major: u32,
    pub minor: u32,
    pub uid: u32,
    pub gid: u32,
}

/// The PID namespace of a container: the request, applied to its pod. `T` identifies the container whose
/// namespace is joined: by its id in a record, by its pidfd for compiling, by the pidfd's index in a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum PidNamespace<T> {
    /// A new namespace; the container's first process is its PID 1.
    Own,
    /// The shared namespace of the pod.
    Pod,
    /// The namespace of the monitor, which is that of the host.
    Host,
    /// The namespace of another container of the same pod.
    Target(T),
}

impl<T> PidNamespace<T> {
    /// Converts the identification of the target.
    ///
    /// # Errors
    /// The error of `target`.
    pub fn try_map<U, E>(self, target: impl FnOnce(T) -> Result<U, E>) -> Result<PidNamespace<U>, E> {
        Ok(match self {
            Self::Own => PidNamespace::Own,
            Self::Pod => PidNamespace::Pod,
            Self::Host => PidNamespace::Host,
            Self::Target(id) => PidNamespace::Target(target(id)?),
        })
    }
}

/// How the process joins its cgroups before it runs anything.
///
/// v2 (also the empty v2 of a hybrid host): the process is started there with CLONE_INTO_CGROUP. v1: the
/// child writes `0` into `tasks` of each hierarchy: for a thread that moves itself the kernel skips the
/// global lock that `cgroup.procs` takes (15 ms on the first write after a pause).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CgroupJoin {
    /// Open `O_DIRECTORY` descriptor of the v2 cgroup.
    pub v2: Option<FdIndex>,
    /// Open-for-writing descriptors of the v1 `tasks` files.
    pub v1_tasks: Vec<FdIndex>,
    /// Read at exit for a line `oom_kill N` with N above 0: `memory.events` (v2) or `memory.oom_control` (v1).
    pub oom_events: Option<FdIndex>,
}
