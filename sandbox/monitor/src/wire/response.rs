//! Responses and events. The monitor writes them and the server reads them: the same types on both sides,
//! including descriptors.

use crisp_executor::ids::{ContainerId, PodId};
use crisp_executor::run::StageError;
use rustix::fd::OwnedFd;
use serde::{Deserialize, Serialize};

use super::message::{Descriptors, Message, Response};
use super::{EncodeError, Exit, ExitStatus, Malformed, codec};

/// The properties of a monitor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Greeting {
    /// The newest protocol that it supports; it also supports all older ones, except for plans.
    pub protocol: u16,
    /// Version of the monitor's crate.
    pub build: String,
    pub pod: PodId,
    pub pid: i32,
    pub opened: bool,
}

/// The state of a monitor's pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodReport {
    pub opened: bool,
    /// The first process of the shared PID namespace, while it lives.
    pub init: Option<i32>,
    pub containers: Vec<ContainerReport>,
}

/// One container in a [`PodReport`]. Part of a list, so no field can ever be added.
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

/// The state of a container. `Starting` becomes `Running` or, after a failure, leaves the report; `Running`
/// becomes `Exited`; `Exited` leaves it by [`Forget`](super::request::Forget).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ContainerState {
    Starting,
    Running,
    Exited(Exit),
}

/// The state of a container's log.
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
#[derive(Debug)]
pub struct PodOpened {
    /// The process id of the monitor.
    pub pid: i32,
    /// The first process of the shared PID namespace.
    pub init: Option<i32>,
    /// For a pod with its own network.
    pub network: Option<PodNetwork>,
}

/// The descriptors of a pod's network.
#[derive(Debug)]
pub struct PodNetwork {
    /// A route netlink socket that was opened inside.
    pub netlink: OwnedFd,
    /// The network namespace.
    pub netns: OwnedFd,
}

/// The response to [`CopyPorts`](super::request::CopyPorts).
#[derive(Debug)]
pub struct PortSockets {
    /// Those that follow the requested start, perhaps not all.
    pub sockets: Vec<OwnedFd>,
    /// The number of all that the monitor holds.
    pub all: u32,
}

/// A process runs.
#[derive(Debug)]
pub struct Started {
    /// In the host's PID namespace.
    pub pid: i32,
    /// Nanoseconds since 1970.
    pub started_at_ns: i64,
    /// Settings that this host did not allow as requested; the executor came as close as it could.
    pub notes: Vec<StageError>,
    /// An exec's terminal, if it has one.
    pub terminal: Option<OwnedFd>,
    /// The end of an exec whose response was delayed, if it is known: then there is no event for it.
    pub ended: Option<ExitStatus>,
}

/// The response to [`OpenStdin`](super::request::OpenStdin).
#[derive(Debug)]
pub struct StdinOpened {
    /// The writing end of a pipe, or a terminal's master.
    pub stdin: OwnedFd,
}

/// An event that the monitor reports itself. Variants are only added at the end; a server drops those that it
/// does not know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// A container ended and its log is complete, unless the log file cannot be written.
    Exited { container: ContainerId, pid: i32, started_at_ns: i64, exit: Exit },
    /// An exec of this connection ended.
    ExecExited { exec: u64, container: ContainerId, status: ExitStatus, finished_at_ns: i64 },
    /// The first process of the shared PID namespace ended, and with it every container in that namespace.
    InitExited { status: ExitStatus },
    /// Writing a container's log failed; it is tried again while the container waits.
    LogFailing { container: ContainerId, errno: i32 },
    /// The log of a container can be written again.
    LogWorking { container: ContainerId },
}

/// Responses whose bodies are their fields, without descriptors.
macro_rules! plain {
    ($($response:ident)*) => {$(
        impl Response for $response {
            fn encode(self) -> Result<Message, EncodeError> {
                Message::of(&self)
            }

            fn decode(message: Message) -> Result<Self, Malformed> {
                Ok(message.open()?.0)
            }
        }
    )*};
}

plain!(Greeting PodReport);

impl Response for PodOpened {
    fn encode(self) -> Result<Message, EncodeError> {
        let fds = self.network.map(PodNetwork::into_fds).into_iter().flatten();
        Message::with(&(self.pid, self.init), fds.collect())
    }

    fn decode(message: Message) -> Result<Self, Malformed> {
        let network = !message.fds.is_empty();
        let ((pid, init), mut fds) = message.open()?;
        let network = network.then(|| PodNetwork::take(&mut fds)).transpose()?;
        Ok(Self { pid, init, network })
    }
}

impl PodNetwork {
    fn into_fds(self) -> [OwnedFd; 2] {
        [self.netlink, self.netns]
    }

    fn take(fds: &mut Descriptors) -> Result<Self, Malformed> {
        Ok(Self { netlink: fds.next("the netlink socket")?, netns: fds.next("the network namespace")? })
    }
}

impl Response for PodNetwork {
    fn encode(self) -> Result<Message, EncodeError> {
        Message::with(&(), self.into_fds().into())
    }

    fn decode(message: Message) -> Result<Self, Malformed> {
        let ((), mut fds) = message.open()?;
        Self::take(&mut fds)
    }
}

impl Response for PortSockets {
    fn encode(self) -> Result<Message, EncodeError> {
        Message::with(&self.all, self.sockets)
    }

    fn decode(message: Message) -> Result<Self, Malformed> {
        let (all, sockets) = message.open()?;
        Ok(Self { sockets: sockets.rest(), all })
    }
}

impl Response for Started {
    fn encode(self) -> Result<Message, EncodeError> {
        let body = (self.pid, self.started_at_ns, self.notes, self.ended);
        Message::with(&body, self.terminal.into_iter().collect())
    }

    fn decode(message: Message) -> Result<Self, Malformed> {
        let terminal = !message.fds.is_empty();
        let ((pid, started_at_ns, notes, ended), mut fds) = message.open()?;
        Ok(Self { pid, started_at_ns, notes, terminal: fds.next_if(terminal, "the terminal")?, ended })
    }
}

impl Response for StdinOpened {
    fn encode(self) -> Result<Message, EncodeError> {
        Message::with(&(), vec![self.stdin])
    }

    fn decode(message: Message) -> Result<Self, Malformed> {
        let ((), mut fds) = message.open()?;
        Ok(Self { stdin: fds.next("stdin")? })
    }
}

impl Event {
    /// The body of the event's message.
    ///
    /// # Errors
    /// [`EncodeError`].
    pub fn encode(&self) -> Result<Vec<u8>, EncodeError> {
        codec::to_bytes(self)
    }

    /// Decodes the output of [`encode`](Self::encode).
    ///
    /// # Errors
    /// [`Malformed`], also for an event that only a newer monitor knows.
    pub fn decode(body: &[u8]) -> Result<Self, Malformed> {
        codec::from_bytes(body)
    }
}
