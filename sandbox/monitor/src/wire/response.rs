//! Bodies of responses, and events.

use crisp_executor::id::{ContainerId, PodId};
use crisp_executor::run::StageError;
use serde::{Deserialize, Serialize};

use super::{Exit, ExitStatus};

/// Who a monitor is. Never changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Greeting {
    pub protocol: u16,
    /// Version of the monitor's crate.
    pub build: String,
    pub pod: PodId,
    pub pid: i32,
    pub opened: bool,
}

/// All that a monitor knows of its pod. Never changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodReport {
    pub opened: bool,
    /// The first process of the shared PID namespace, while it lives.
    pub init: Option<i32>,
    pub containers: Vec<ContainerReport>,
}

/// One container in a [`PodReport`]. Never changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerReport {
    pub id: ContainerId,
    pub pid: i32,
    pub state: ContainerState,
    /// Nanoseconds since 1970.
    pub started_at_ns: i64,
    pub terminal: bool,
    pub execs: u32,
    pub log: LogReport,
}

/// How far a container is. `Starting` goes to `Running` or, failed, out of the report; `Running`
/// to `Exited`; `Exited` out of it by [`Forget`](super::request::Forget).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ContainerState {
    Starting,
    Running,
    Exited(Exit),
}

/// What became of a container's output.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogReport {
    /// Bytes of output, without the log's own prefixes, written to the log file.
    pub written: u64,
    /// Bytes of output read and dropped because the container has no log file.
    pub discarded: u64,
    /// Failed writes of the log file; each is tried again.
    pub failures: u64,
    /// Errno of the last write while writing fails, else 0.
    pub failing: i32,
}

/// The pod is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodOpened {
    pub pid: i32,
    /// The first process of the shared PID namespace.
    pub init: Option<i32>,
}

/// A process runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Started {
    /// In the host's PID namespace.
    pub pid: i32,
    /// Nanoseconds since 1970.
    pub started_at_ns: i64,
    /// What could not be had as asked and was done as near to it as this host allows.
    pub notes: Vec<StageError>,
}

/// Something happened. Variants are only ever added at the end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// A container ended and its log is complete, unless the log file cannot be written.
    Exited { container: ContainerId, pid: i32, started_at_ns: i64, exit: Exit },
    /// An exec of this connection ended.
    ExecExited { exec: u64, container: ContainerId, status: ExitStatus, finished_at_ns: i64 },
    /// The first process of the shared PID namespace ended, and with it every container in there.
    InitExited { status: ExitStatus },
    /// Writing a container's log failed; it is tried again while the container waits.
    LogFailing { container: ContainerId, errno: i32 },
    /// The log of a container can be written again.
    LogWorking { container: ContainerId },
}
