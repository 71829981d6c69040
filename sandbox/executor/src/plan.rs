//! The plan: a container's OCI spec after everything that can be decided, checked or opened beforehand. Made
//! by `compile` in the server, executed by `run` in the monitor, and sent between them as bytes and
//! descriptors.
//!
//! A plan needs no lookup on the host: sources of mounts are descriptors, users are numbers, the seccomp
//! filter is a BPF program.

use std::ffi::CString;

use serde::{Deserialize, Serialize};

/// A descriptor that is sent with the plan, by its position.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FdIndex(pub u16);

/// The inputs for starting a container's first process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    pub process: Process,
    pub root: Root,
    /// In the order in which they are attached.
    pub mounts: Vec<Mount>,
    /// Nodes made in the container's own /dev.
    pub devices: Vec<Device>,
    /// Paths that are masked by /dev/null (files) or an empty read-only tmpfs (folders). Missing ones are
    /// skipped.
    pub masked_paths: Vec<CString>,
    /// Paths remounted read-only. Missing ones are skipped.
    pub readonly_paths: Vec<CString>,
    pub pid: PidNamespace<FdIndex>,
    /// Whether the container has its own cgroup namespace (always, except for the host's).
    pub cgroup_namespace: bool,
    pub cgroup: CgroupJoin,
}

/// A process: a container's first one, or an exec.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Never empty. `args[0]` is searched in PATH of `env` if it has no slash.
    pub args: Vec<CString>,
    /// `NAME=value`, without duplicates.
    pub env: Vec<CString>,
    /// Absolute; for a container's first process it is made (0755) if it is missing.
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
    /// Limited by the executor to values that it may set.
    pub oom_score_adj: Option<i32>,
    /// AppArmor profile to change to on exec.
    pub apparmor_profile: Option<CString>,
    /// A controlling terminal instead of pipes.
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
    /// Made read-only after every mount target exists.
    pub readonly: bool,
    /// Propagation of the root itself: true = shared (needed by bidirectional volumes), else private/slave.
    pub shared: bool,
}

/// A mount below the root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Absolute path in the container, resolved without leaving the root.
    pub target: CString,
    pub kind: MountKind,
    /// MOUNT_ATTR_ bits (RDONLY, NOSUID, NODEV, NOEXEC, ...) for the kinds that the child makes itself; a
    /// bind has its own.
    pub attributes: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountKind {
    /// A detached tree whose attributes and propagation are already set. `file`: the target is a file.
    Bind {
        source: FdIndex,
        file: bool,
    },
    Proc,
    Sysfs,
    /// `options` as for fsconfig: `size=65536k`, `mode=755`, ...
    Tmpfs {
        options: Vec<CString>,
    },
    /// A new instance, ptmxmode 0666, mode 0620, gid as given.
    Devpts {
        gid: u32,
    },
    Mqueue,
    /// The pod's own shared /dev/shm, found in the monitor's root at /shm.
    PodShm,
    /// cgroup2 at the target.
    Cgroup2,
    /// A tmpfs at the target with one folder per v1 hierarchy, each named by its controllers
    /// (`cpu,cpuacct`), and symbolic links for the single names of joint ones.
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

/// The PID namespace of a container, resolved: what was requested, applied to its pod. `T` identifies the
/// container whose namespace is joined: an id in a record, a pidfd for compiling, the pidfd's index in a
/// plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum PidNamespace<T> {
    /// A new one; the container's first process is its PID 1.
    Own,
    /// The pod's shared one.
    Pod,
    /// The monitor's own, which is the host's.
    Host,
    /// The namespace of another container of the same pod.
    Target(T),
}

impl<T> PidNamespace<T> {
    /// Replaces the identification of the target.
    ///
    /// # Errors
    /// Those of `target`.
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
/// v2 (also the empty v2 of a hybrid host): started there with CLONE_INTO_CGROUP. v1: the child writes `0`
/// into each hierarchy's `tasks`: for a thread that moves itself the kernel skips the global lock that
/// `cgroup.procs` takes (15 ms on the first write after a pause).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CgroupJoin {
    /// Open `O_DIRECTORY` descriptor of the v2 cgroup.
    pub v2: Option<FdIndex>,
    /// Open-for-writing descriptors of the v1 `tasks` files.
    pub v1_tasks: Vec<FdIndex>,
    /// Read at exit for a line `oom_kill N` with N above 0: `memory.events` (v2) or `memory.oom_control` (v1).
    pub oom_events: Option<FdIndex>,
}
