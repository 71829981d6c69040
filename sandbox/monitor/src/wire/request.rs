//! Requests. The server writes them and the monitor reads them: the same types on both sides, including
//! descriptors.
//!
//! On the wire a body tells which descriptors come with it; they follow in the order of the fields here.

use crisp_executor::ids::ContainerId;
use crisp_executor::plan::{CgroupJoin, Plan, Process};
use crisp_executor::user_namespace::IdMappings;
use rustix::fd::OwnedFd;
use serde::{Deserialize, Serialize};

use super::message::{Message, Request};
use super::plan::Encoded;
use super::response::{Greeting, PodNetwork, PodOpened, PodReport, PortSockets, Started, StdinOpened};
use super::{EncodeError, Failure, Op, plan};

/// Requests [`Greeting`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello;

/// Requests [`PodReport`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report;

/// Requests [`PodNetwork`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network;

/// Makes a fresh monitor a pod. Once per monitor.
#[derive(Debug)]
pub struct OpenPod {
    /// Its own UTS namespace with this name. None for the host's.
    pub hostname: Option<String>,
    /// Its own network namespace.
    pub network: bool,
    /// The network namespace of another pod, which it joins. Not with `network`, nor with `user`.
    pub joined_network: Option<OwnedFd>,
    /// Its own IPC namespace and shared memory; else the host's.
    pub ipc: bool,
    /// A PID namespace that containers can share ([`PidNamespace::Pod`](crisp_executor::plan::PidNamespace)).
    pub shared_pid: bool,
    /// Dotted or slashed names, set inside the namespaces.
    pub sysctls: Vec<(String, String)>,
    /// Limit of the pod's shared memory.
    pub shm_bytes: u64,
    /// The folder for exit records.
    pub exits: OwnedFd,
    /// Folder of the v2 cgroup that the monitor joins, if it was not started in it.
    pub cgroup_v2: Option<OwnedFd>,
    /// `tasks` files, open for writing, of the v1 cgroups that the monitor joins.
    pub cgroup_v1_tasks: Vec<OwnedFd>,
    /// Its own user namespace, which owns its other namespaces. None for the host's. It requires its own IPC
    /// namespace. A monitor that does not know the field never gets it: each pod is opened by a server of the
    /// same build.
    pub user: Option<IdMappings>,
    /// The first sockets to hold, as in [`HoldPorts`].
    pub host_ports: Vec<OwnedFd>,
}

/// Starts a container.
#[derive(Debug)]
pub struct StartRequest {
    pub container: ContainerId,
    pub plan: Plan,
    /// Open for appending. None: the output is read and discarded.
    pub log: Option<OwnedFd>,
    /// The plan's descriptors.
    pub fds: Vec<OwnedFd>,
    /// Keep stdin open for [`OpenStdin`]; otherwise it is a null device.
    pub stdin: bool,
    /// The first client of [`OpenStdin`] gets the only writing end: stdin ends when that client does, in any
    /// way. Has no effect for a terminal. Monitors of protocol 1 keep stdin open.
    pub stdin_once: bool,
    /// For a process with a terminal; set once the terminal exists, and perhaps after the process has begun.
    pub size: Option<WindowSize>,
}

/// Starts an additional process in a container. When the connection closes it is ended as `grace_ms` says.
#[derive(Debug)]
pub struct ExecRequest {
    /// Chosen by the client, unique on its connection while the process lives.
    pub exec_id: u64,
    pub container: ContainerId,
    pub process: Process,
    pub cgroup: CgroupJoin,
    /// None for a null device.
    pub stdin: Option<OwnedFd>,
    pub stdout: Option<OwnedFd>,
    pub stderr: Option<OwnedFd>,
    /// The descriptors of `cgroup`.
    pub fds: Vec<OwnedFd>,
    /// For a process with a terminal; set once the terminal exists, and perhaps after the process has begun.
    pub size: Option<WindowSize>,
    /// How long it may live after the connection's end. Its process group gets SIGHUP then; with a terminal the
    /// kernel sends SIGHUP when the last copy of that is closed. After this time all processes in its cgroup, if
    /// that is v2, are killed. 0: at once, without SIGHUP.
    pub grace_ms: u32,
    /// The response may come with the end of the process, or some milliseconds after its start. Older
    /// monitors respond at its start.
    pub late_response: bool,
}

/// Columns and rows of a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowSize {
    pub columns: u16,
    pub rows: u16,
}

impl WindowSize {
    /// Columns and rows.
    #[must_use]
    pub fn pair(self) -> (u16, u16) {
        (self.columns, self.rows)
    }
}

/// Signals a container's first process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signal {
    pub container: ContainerId,
    /// From 1 to 64, real-time signals included.
    pub signal: i32,
    /// For SIGKILL: also its process group, its execs and, on cgroup v2, everything in its cgroup.
    pub all: bool,
}

/// Ends the monitor. Refused while containers run, unless forced: then they are killed first. The response
/// comes when nothing runs; then the connection closes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shutdown {
    pub force: bool,
}

/// Kills an exec of this connection with its process group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct KillExec {
    pub exec: u64,
}

/// Signals the process group of an exec of this connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignalExec {
    pub exec: u64,
    /// From 1 to 64.
    pub signal: i32,
}

/// Gives a container another log file. Output that was read before is written to the old one.
#[derive(Debug)]
pub struct ReopenLog {
    pub container: ContainerId,
    /// Open for appending.
    pub log: OwnedFd,
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

/// Requests the writing end of the container's stdin, or its terminal. Several clients may have one, but see
/// [`StartRequest::stdin_once`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenStdin {
    pub container: ContainerId,
}

/// Closes the monitor's own end: the container reads end-of-file when no client has another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CloseStdin {
    pub container: ContainerId,
}

/// Also copies the container's output from now on to the given pipes, in addition to those of earlier
/// clients. A full pipe is closed: the log has all output, and a slow reader must not stop the container.
/// Older monitors drop the excess output instead.
#[derive(Debug)]
pub struct Attach {
    pub container: ContainerId,
    pub stdout: Option<OwnedFd>,
    pub stderr: Option<OwnedFd>,
}

/// Sockets that keep host ports of the pod from other programs. The monitor uses none of them: it has them open
/// until it ends, whatever happens to the server. Older monitors refuse this.
#[derive(Debug)]
pub struct HoldPorts {
    pub sockets: Vec<OwnedFd>,
}

/// Requests copies of the sockets of [`HoldPorts`], without the first ones: one response has only some.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyPorts {
    pub without: u32,
}

/// Requests whose bodies are their fields, without descriptors.
macro_rules! plain {
    ($($request:ident -> $response:ty;)*) => {$(
        impl Request for $request {
            const OP: Op = Op::$request;
            type Response = $response;

            fn encode(self, _: u16) -> Result<Message, EncodeError> {
                Message::of(&self)
            }

            fn decode(message: Message, _: u16) -> Result<Self, Failure> {
                Ok(message.open()?.0)
            }
        }
    )*};
}

plain! {
    Hello -> Greeting;
    Report -> PodReport;
    Network -> PodNetwork;
    Signal -> ();
    Shutdown -> ();
    KillExec -> ();
    Forget -> ();
    Resize -> ();
    OpenStdin -> StdinOpened;
    CloseStdin -> ();
    SignalExec -> ();
    CopyPorts -> PortSockets;
}

impl Request for OpenPod {
    const OP: Op = Op::OpenPod;
    type Response = PodOpened;

    fn encode(self, _: u16) -> Result<Message, EncodeError> {
        let cgroup_v1 = u16::try_from(self.cgroup_v1_tasks.len()).unwrap_or(u16::MAX);
        let namespaces = (self.hostname, self.network, self.ipc, self.shared_pid);
        let cgroups = (self.cgroup_v2.is_some(), cgroup_v1);
        // All descriptors that follow are sockets of host ports.
        let joins = self.joined_network.is_some();
        let body = (namespaces, self.sysctls, self.shm_bytes, cgroups, self.user, joins);
        let fds = [self.exits].into_iter().chain(self.cgroup_v2).chain(self.cgroup_v1_tasks);
        let fds = fds.chain(self.joined_network).chain(self.host_ports);
        Message::with(&body, fds.collect())
    }

    fn decode(message: Message, _: u16) -> Result<Self, Failure> {
        let (body, mut fds) = message.open()?;
        let (namespaces, sysctls, shm_bytes, cgroups, user, joins): (_, _, _, (bool, u16), _, bool) = body;
        let ((hostname, network, ipc, shared_pid), (cgroup_v2, cgroup_v1)) = (namespaces, cgroups);
        let exits = fds.next("the folder for exits")?;
        let cgroup_v2 = fds.next_if(cgroup_v2, "the v2 cgroup")?;
        let cgroup_v1_tasks = (0..cgroup_v1).map(|_| fds.next("a v1 cgroup")).collect::<Result<_, _>>()?;
        let joined_network = fds.next_if(joins, "the network of another pod")?;
        Ok(Self {
            hostname,
            network,
            joined_network,
            ipc,
            shared_pid,
            sysctls,
            shm_bytes,
            exits,
            cgroup_v2,
            cgroup_v1_tasks,
            user,
            host_ports: fds.rest(),
        })
    }
}

impl Request for StartRequest {
    const OP: Op = Op::Start;
    type Response = Started;

    fn encode(self, protocol: u16) -> Result<Message, EncodeError> {
        let (plan, in_memory) = plan::encode(&self.plan, protocol)?.split();
        let body = (self.container, self.log.is_some(), self.stdin, self.size, self.stdin_once, plan);
        Message::with(&body, in_memory.into_iter().chain(self.log).chain(self.fds).collect())
    }

    fn decode(message: Message, protocol: u16) -> Result<Self, Failure> {
        let (body, mut fds) = message.open()?;
        let (container, log, stdin, size, stdin_once, plan): (_, bool, _, _, _, _) = body;
        let plan = plan::decode(&Encoded::join(plan, &mut fds)?, protocol)?;
        let log = fds.next_if(log, "the log file")?;
        Ok(Self { container, plan, log, fds: fds.rest(), stdin, stdin_once, size })
    }
}

impl Request for ExecRequest {
    const OP: Op = Op::Exec;
    type Response = Started;

    fn encode(self, protocol: u16) -> Result<Message, EncodeError> {
        let (plan, in_memory) = plan::encode_exec(&self.process, &self.cgroup, protocol)?.split();
        let streams = (self.stdin.is_some(), self.stdout.is_some(), self.stderr.is_some());
        let grown = (self.late_response, plan);
        let body = (self.exec_id, self.container, streams, self.size, self.grace_ms, grown);
        let streams = self.stdin.into_iter().chain(self.stdout).chain(self.stderr);
        Message::with(&body, in_memory.into_iter().chain(streams).chain(self.fds).collect())
    }

    fn decode(message: Message, protocol: u16) -> Result<Self, Failure> {
        let (body, mut fds) = message.open()?;
        let (exec_id, container, streams, size, grace_ms, (late_response, plan)) = body;
        let (stdin, stdout, stderr): (bool, bool, bool) = streams;
        let plan = Encoded::join(plan, &mut fds)?;
        let stdin = fds.next_if(stdin, "stdin")?;
        let stdout = fds.next_if(stdout, "stdout")?;
        let stderr = fds.next_if(stderr, "stderr")?;
        let (process, cgroup) = plan::decode_exec(&plan, protocol)?;
        let fds = fds.rest();
        Ok(Self {
            exec_id,
            container,
            process,
            cgroup,
            stdin,
            stdout,
            stderr,
            fds,
            size,
            grace_ms,
            late_response,
        })
    }
}

impl Request for ReopenLog {
    const OP: Op = Op::ReopenLog;
    type Response = ();

    fn encode(self, _: u16) -> Result<Message, EncodeError> {
        Message::with(&self.container, vec![self.log])
    }

    fn decode(message: Message, _: u16) -> Result<Self, Failure> {
        let (container, mut fds) = message.open()?;
        Ok(Self { container, log: fds.next("the log file")? })
    }
}

impl Request for HoldPorts {
    const OP: Op = Op::HoldPorts;
    type Response = ();

    fn encode(self, _: u16) -> Result<Message, EncodeError> {
        Message::with(&(), self.sockets)
    }

    fn decode(message: Message, _: u16) -> Result<Self, Failure> {
        Ok(Self { sockets: message.fds })
    }
}

impl Request for Attach {
    const OP: Op = Op::Attach;
    type Response = ();

    fn encode(self, _: u16) -> Result<Message, EncodeError> {
        let body = (self.container, self.stdout.is_some(), self.stderr.is_some());
        Message::with(&body, self.stdout.into_iter().chain(self.stderr).collect())
    }

    fn decode(message: Message, _: u16) -> Result<Self, Failure> {
        let (body, mut fds) = message.open()?;
        let (container, stdout, stderr): (_, bool, bool) = body;
        let stdout = fds.next_if(stdout, "stdout")?;
        Ok(Self { container, stdout, stderr: fds.next_if(stderr, "stderr")? })
    }
}
