//! The server's connection to a pod's monitor: [`MonitorLink`].
//!
//! ```text
//!  caller --request--> sendmsg (whole or not at all)     monitor
//!     ^                                                     |
//!     +--- by id ---- reader task <---- response, event ----+
//!                         +--> events(), wait_exec()
//! ```
//!
//! Requests and responses are the types of [`crisp_monitor::wire`]; each method here sends one, in the
//! protocol of the monitor's greeting.
//!
//! Any future here may be dropped at any point: the response is then dropped when it arrives, with its
//! descriptors. The request may still take effect; [`MonitorLink::report`] shows that.

pub(crate) mod connect;
mod error;
mod exec;
mod execs;
mod fresh;
mod host_ports;
mod reader;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use crisp_executor::ids::ContainerId;
use crisp_metrics::trace::{self, Span};
use crisp_monitor::wire::request::{
    Attach, CloseStdin, Forget, Hello, Network, OpenStdin, ReopenLog, Report, Resize, Shutdown, Signal,
};
use crisp_monitor::wire::{Header, Message, Op, PROTOCOL, Request, Response};
use crisp_operation::waits_for;
use rustix::fd::OwnedFd;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

pub use crisp_monitor::wire::request::{ExecRequest, OpenPod, StartRequest, WindowSize};
pub use crisp_monitor::wire::response::{
    ContainerReport, ContainerState, Event, Greeting, LogReport, PodNetwork, PodOpened, PodReport, Started,
};
pub use crisp_monitor::wire::{EncodeError, Exit, ExitRecord, ExitStatus, Failure};
pub use error::LinkError;

use reader::{Connection, Reader};

/// A connection to one monitor. Clones share it; it closes with the last of them, and the monitor
/// then ends the execs that were requested on it.
#[derive(Clone)]
pub struct MonitorLink {
    connection: Arc<Connection>,
    greeting: Arc<Greeting>,
    /// Replaces each request's own deadline.
    deadline: Option<Duration>,
    /// Started with the first request, or the first receiver of events: a link can be made on a thread of
    /// blocking work, and no other thread wakes up for it.
    reader: Arc<Reader>,
}

impl MonitorLink {
    /// Whether both are the same connection.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.connection, &other.connection)
    }

    /// Connects to the monitor that listens (or will soon) on `socket`, and exchanges greetings.
    ///
    /// # Errors
    /// [`LinkError::Connect`] when no process listens there; any other when no greeting arrives in time.
    pub async fn connect(socket: &Path, deadline: Duration) -> Result<Self, LinkError> {
        let started = tokio::time::Instant::now();
        let descriptor = connect::connect(socket, deadline).await?;
        let connection = Arc::new(Connection::new(socket.to_owned(), descriptor)?);
        let reader = Arc::<Reader>::default();
        reader.start(&connection);
        let left = deadline.saturating_sub(started.elapsed()).max(Duration::from_millis(1));
        // Monitors of every protocol answer this request.
        let hello = Message::default();
        let greeting = connection.call(Header::request(Op::Hello, connection.next_id()), hello, left).await?;
        let greeting = Greeting::decode(greeting).map_err(|e| connection.malformed(Hello::OP, e))?;
        Ok(Self { connection, greeting: Arc::new(greeting), deadline: None, reader })
    }

    /// This link with `deadline` for each request.
    #[must_use]
    pub fn within(&self, deadline: Duration) -> Self {
        Self { deadline: Some(deadline), ..self.clone() }
    }

    /// The monitor's greeting.
    #[must_use]
    pub fn greeting(&self) -> &Greeting {
        &self.greeting
    }

    /// The monitor's socket.
    #[must_use]
    pub fn socket(&self) -> &PathBuf {
        &self.connection.monitor
    }

    /// Whether the connection has ended. It is never reopened: connect again.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.connection.is_closed()
    }

    /// The events from now on, until the connection ends: then the channel closes. A receiver that lags must
    /// call [`report`](Self::report).
    #[must_use]
    pub fn events(&self) -> broadcast::Receiver<Event> {
        // First: an event that waits in the socket would be published to no receiver.
        let events = self.connection.subscribe();
        self.reader.start(&self.connection);
        events
    }

    /// Every container that the monitor has.
    ///
    /// # Errors
    /// [`LinkError`].
    pub async fn report(&self) -> Result<PodReport, LinkError> {
        self.call(Report).await
    }

    /// Makes a fresh monitor open its pod.
    ///
    /// # Errors
    /// [`LinkError::Stage`], [`LinkError::Refused`] with the step that failed.
    pub async fn open_pod(&self, pod: OpenPod) -> Result<PodOpened, LinkError> {
        self.call(pod).await
    }

    /// The descriptors of the pod's network again, for a restarted server.
    ///
    /// # Errors
    /// [`Failure::NoNetwork`] for a pod on the host's.
    pub async fn network(&self) -> Result<PodNetwork, LinkError> {
        self.call(Network).await
    }

    /// Starts a container: returns when its first process has exec'd.
    ///
    /// # Errors
    /// [`LinkError::Stage`] with the stage that failed. After [`LinkError::Deadline`] the container
    /// may still start: signal it.
    pub async fn start(&self, request: StartRequest) -> Result<Started, LinkError> {
        let mut span = request_span(Op::Start);
        let started = self.call_in(&mut span, request).await?;
        let since_epoch = Duration::from_nanos(started.started_at_ns.try_into().unwrap_or_default());
        span.event_at("the process has started", UNIX_EPOCH + since_epoch);
        Ok(started)
    }

    /// Signals a container's first process; `all`: see [`Signal::all`].
    ///
    /// # Errors
    /// [`Failure::UnknownContainer`], [`Failure::NotRunning`].
    pub async fn signal(&self, container: &ContainerId, signal: i32, all: bool) -> Result<(), LinkError> {
        self.call(Signal { container: container.clone(), signal, all }).await
    }

    /// Gives a container a new log file.
    ///
    /// # Errors
    /// [`Failure::UnknownContainer`].
    pub async fn reopen_log(&self, container: &ContainerId, log: OwnedFd) -> Result<(), LinkError> {
        self.call(ReopenLog { container: container.clone(), log }).await
    }

    /// Drops an ended container and its exit record.
    ///
    /// # Errors
    /// [`Failure::UnknownContainer`], [`Failure::StillRunning`].
    pub async fn forget(&self, container: &ContainerId) -> Result<(), LinkError> {
        self.call(Forget { container: container.clone() }).await
    }

    /// Sets the size of a container's terminal.
    ///
    /// # Errors
    /// [`Failure::NoTerminal`].
    pub async fn resize(&self, container: &ContainerId, size: WindowSize) -> Result<(), LinkError> {
        self.call(Resize { container: container.clone(), size }).await
    }

    /// The writing end of a container's stdin, or its terminal.
    ///
    /// # Errors
    /// [`Failure::NoStdin`].
    pub async fn open_stdin(&self, container: &ContainerId) -> Result<OwnedFd, LinkError> {
        self.call(OpenStdin { container: container.clone() }).await.map(|opened| opened.stdin)
    }

    /// Closes the monitor's own end of a container's stdin.
    ///
    /// # Errors
    /// [`Failure::NoStdin`].
    pub async fn close_stdin(&self, container: &ContainerId) -> Result<(), LinkError> {
        self.call(CloseStdin { container: container.clone() }).await
    }

    /// Copies a container's output from now on to the given pipes. The pipes end when the container has
    /// ended.
    ///
    /// # Errors
    /// [`Failure::NotRunning`].
    pub async fn attach(
        &self,
        container: &ContainerId,
        stdout: Option<OwnedFd>,
        stderr: Option<OwnedFd>,
    ) -> Result<(), LinkError> {
        self.call(Attach { container: container.clone(), stdout, stderr }).await
    }

    /// Ends the monitor; with `force` also everything that still runs in it. Returns when its connection has
    /// closed, which is a few microseconds before its exit.
    ///
    /// # Errors
    /// [`Failure::ContainersRunning`] without `force`.
    pub async fn shutdown(&self, force: bool) -> Result<(), LinkError> {
        let mut events = self.events();
        self.call(Shutdown { force }).await?;
        let closed = async { while !matches!(events.recv().await, Err(RecvError::Closed)) {} };
        tokio::time::timeout(QUICK, closed).await.map_err(|_| self.connection.deadline(Op::Shutdown, QUICK))
    }

    /// The newest protocol that both sides support.
    fn protocol(&self) -> u16 {
        PROTOCOL.min(self.greeting.protocol)
    }

    async fn call<R: Request>(&self, request: R) -> Result<R::Response, LinkError> {
        self.call_in(&mut request_span(R::OP), request).await
    }

    async fn call_in<R: Request>(&self, span: &mut Span, request: R) -> Result<R::Response, LinkError> {
        let connection = &self.connection;
        self.reader.start(connection);
        let version = self.protocol();
        let message = request.encode(version).map_err(|error| connection.unsent(R::OP, error))?;
        let header = Header { version, ..Header::request(R::OP, connection.next_id()) };
        let deadline = self.deadline.unwrap_or(deadline(R::OP));
        let _wait = waits_for(|| format!("the pod's monitor ({})", R::OP.name()));
        let response = connection.call(header, message, deadline).await;
        let response = response.inspect_err(|error| span.fail(error))?;
        R::Response::decode(response).map_err(|error| connection.malformed(R::OP, error))
    }
}

fn request_span(op: Op) -> Span {
    trace::client_span(|| format!("monitor: {}", op.name()))
}

/// For requests that the monitor serves from memory.
const QUICK: Duration = Duration::from_secs(5);

fn deadline(op: Op) -> Duration {
    match op {
        // Includes the exec, which may read a binary from disk; killing may take as long.
        Op::Start | Op::Exec | Op::Shutdown => Duration::from_secs(60),
        // Namespaces: a busy host needs a while to make a network namespace.
        Op::OpenPod => Duration::from_secs(20),
        Op::Hello
        | Op::Report
        | Op::Signal
        | Op::Event
        | Op::Network
        | Op::KillExec
        | Op::ReopenLog
        | Op::Forget
        | Op::Resize
        | Op::OpenStdin
        | Op::CloseStdin
        | Op::Attach
        | Op::SignalExec
        | Op::HoldPorts
        | Op::CopyPorts => QUICK,
    }
}
