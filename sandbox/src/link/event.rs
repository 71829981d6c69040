//! What a monitor tells unasked.

use crisp_executor::id::ContainerId;
use crisp_monitor::wire::{Exit, ExitStatus, response};

/// Something happened in a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A container ended and its log is complete, unless the log file cannot be written.
    Exited { container: ContainerId, pid: i32, started_at_ns: i64, exit: Exit },
    /// The first process of the shared PID namespace ended, and with it every container in there.
    InitExited { status: ExitStatus },
    /// Writing a container's log failed; it is tried again while the container waits.
    LogFailing { container: ContainerId, errno: i32 },
    /// The log of a container can be written again.
    LogWorking { container: ContainerId },
    /// The connection is over: the last event. The monitor may live on.
    Disconnected,
}

impl Event {
    /// None for what concerns a single exec.
    pub(super) fn from_wire(event: response::Event) -> Option<Self> {
        Some(match event {
            response::Event::Exited { container, pid, started_at_ns, exit } => {
                Self::Exited { container, pid, started_at_ns, exit }
            }
            response::Event::ExecExited { .. } => return None,
            response::Event::InitExited { status } => Self::InitExited { status },
            response::Event::LogFailing { container, errno } => Self::LogFailing { container, errno },
            response::Event::LogWorking { container } => Self::LogWorking { container },
        })
    }
}
