//! Bodies of requests. Each says which descriptors travel with it, in order.

use crisp_executor::id::ContainerId;
use crisp_executor::plan::{CgroupJoin, Process};
use serde::{Deserialize, Serialize};

/// Makes a fresh monitor a pod. Once per monitor.
///
/// Descriptors: the folder for exit records; then the pod's v2 cgroup folder if `cgroup_v2`; then
/// `cgroup_v1` open-for-writing `tasks` files. The answer carries, when `network`, a route netlink
/// socket opened inside the pod's network namespace and the namespace itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenPod {
    /// A UTS namespace of its own with this name. None: the host's.
    pub hostname: Option<String>,
    /// A network namespace of its own.
    pub network: bool,
    /// An IPC namespace of its own, and shared memory of its own; else the host's of both.
    pub ipc: bool,
    /// A PID namespace that containers can share ([`PidNamespace::Pod`](crisp_executor::plan::PidNamespace)).
    pub shared_pid: bool,
    /// Dotted or slashed names, set inside the namespaces.
    pub sysctls: Vec<(String, String)>,
    /// Limit of the pod's shared memory.
    pub shm_bytes: u64,
    pub cgroup_v2: bool,
    pub cgroup_v1: u16,
}

/// Starts a container.
///
/// Descriptors: a memfd with the plan (postcard of [`Plan`](crisp_executor::plan::Plan)); the log
/// file if `log`, open for appending; then the plan's own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Start {
    pub container: ContainerId,
    /// Without a log file the output is read and discarded.
    pub log: bool,
    /// Keep stdin open for later; else it is a null device.
    pub stdin: bool,
    /// For a process with a terminal; set as soon as that is there, which the process may outrun.
    pub size: Option<WindowSize>,
}

/// Starts a further process in a container. It is killed when the connection closes.
///
/// Descriptors: a memfd with an [`ExecPlan`]; those of stdin, stdout, stderr that are true; then
/// the plan's own. For a process with a terminal the answer carries the master.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exec {
    /// Chosen by the client, unique on its connection while the process lives.
    pub exec: u64,
    pub container: ContainerId,
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    /// For a process with a terminal; set as soon as that is there, which the process may outrun.
    pub size: Option<WindowSize>,
}

/// What the memfd of an [`Exec`] holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecPlan {
    pub process: Process,
    pub cgroup: CgroupJoin,
}

/// Columns and rows of a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowSize {
    pub columns: u16,
    pub rows: u16,
}

/// Signals a container's first process. Never changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signal {
    pub container: ContainerId,
    pub signal: i32,
    /// Also its process group, its execs and, for SIGKILL on cgroup v2, everything in its cgroup.
    pub all: bool,
}

/// Ends the monitor. Refused while containers run, unless forced: then they are killed first.
/// The answer comes when nothing runs any more; then the connection closes. Never changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shutdown {
    pub force: bool,
}

/// Kills an exec of this connection with its process group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct KillExec {
    pub exec: u64,
}

/// Descriptors: the new log file. What was read before goes to the old one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReopenLog {
    pub container: ContainerId,
}

/// Drops an ended container from the report, and its exit record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forget {
    pub container: ContainerId,
}

/// Sets the size of a container's terminal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resize {
    pub container: ContainerId,
    pub size: WindowSize,
}

/// The answer carries the writing end of the container's stdin (or its terminal).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenStdin {
    pub container: ContainerId,
}

/// Closes the monitor's own end: the container reads end-of-file when no client holds another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CloseStdin {
    pub container: ContainerId,
}

/// Copies the container's output, from now on, also to the given pipes. A pipe that is full loses
/// what does not fit: the log has it all, and a slow reader must not stop the container.
///
/// Descriptors: those of stdout and stderr that are true.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attach {
    pub container: ContainerId,
    pub stdout: bool,
    pub stderr: bool,
}
