//! The server's way to a pod's monitor: [`MonitorLink`].
//!
//! ```text
//!  caller --request--> sendmsg (whole or not at all)     monitor
//!     ^                                                     |
//!     +--- by id ---- reader task <---- response, event ----+
//!                         +--> events(), wait_exec()
//! ```
//!
//! Any future here may be dropped at any point: the answer that then nobody waits for is dropped
//! too, with its descriptors. What was asked for may still happen; [`MonitorLink::report`] tells.

mod answer;
pub(crate) mod connect;
mod error;
mod event;
mod execs;
mod reader;
pub(crate) mod request;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crisp_executor::id::ContainerId;
use crisp_monitor::wire::request as body;
use crisp_monitor::wire::{ExitStatus, Op};
use rustix::fd::OwnedFd;
use tokio::sync::broadcast;

pub use answer::{PodNetwork, PodOpened, Started};
pub use crisp_monitor::wire::request::WindowSize;
pub use crisp_monitor::wire::response::{ContainerReport, ContainerState, Greeting, LogReport, PodReport};
pub use crisp_monitor::wire::{Exit, ExitRecord, Failure};
pub use error::LinkError;
pub use event::Event;
pub use execs::ExecEnd;
pub use request::{ExecRequest, OpenPod, StartRequest};

use execs::ExecGuard;
use reader::{Reader, Shared};

/// A connection to one monitor. Clones share it; it closes with the last of them, and the monitor
/// then kills the execs that were asked for on it.
#[derive(Clone)]
pub struct MonitorLink {
    shared: Arc<Shared>,
    greeting: Arc<Greeting>,
    /// Instead of each request's own.
    deadline: Option<Duration>,
    _reader: Arc<Reader>,
}

impl MonitorLink {
    /// Connects to the monitor that listens (or will soon) on `socket`, and exchanges greetings.
    ///
    /// # Errors
    /// [`LinkError::Connect`] when nobody listens there; any other when there is no greeting in time.
    pub async fn connect(socket: &Path, deadline: Duration) -> Result<Self, LinkError> {
        let started = tokio::time::Instant::now();
        let descriptor = connect::connect(socket, deadline).await?;
        let shared = Arc::new(Shared::new(socket.to_owned(), descriptor)?);
        let reader = Arc::new(Reader::spawn(&shared));
        let left = deadline.saturating_sub(started.elapsed()).max(Duration::from_millis(1));
        let call = shared.call(Op::Hello, "hello", &(), &[], left);
        let greeting = call.await?.parse(&shared, "hello")?;
        Ok(Self { shared, greeting: Arc::new(greeting), deadline: None, _reader: reader })
    }

    /// This link with `deadline` for each request.
    #[must_use]
    pub fn within(&self, deadline: Duration) -> Self {
        Self { deadline: Some(deadline), ..self.clone() }
    }

    /// Who the monitor said to be when the connection was made.
    #[must_use]
    pub fn greeting(&self) -> &Greeting {
        &self.greeting
    }

    /// The monitor's socket.
    #[must_use]
    pub fn socket(&self) -> &PathBuf {
        &self.shared.monitor
    }

    /// Whether the connection has ended. It never comes back: connect anew.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.shared.is_closed()
    }

    /// What happens from now on. A receiver that lags must call [`report`](Self::report).
    #[must_use]
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.shared.subscribe()
    }

    /// Every container that the monitor has.
    ///
    /// # Errors
    /// [`LinkError`].
    pub async fn report(&self) -> Result<PodReport, LinkError> {
        let reply = self.ask(Op::Report, "report", &(), vec![], QUICK).await?;
        reply.parse(&self.shared, "report")
    }

    /// Makes a fresh monitor a pod.
    ///
    /// # Errors
    /// [`LinkError::Stage`], [`LinkError::Refused`] with the step that failed.
    pub async fn open_pod(&self, pod: OpenPod) -> Result<PodOpened, LinkError> {
        let network = pod.network;
        let (body, fds) = pod.into_parts();
        let reply = self.ask(Op::OpenPod, "open pod", &body, fds, OPEN).await?;
        let (opened, fds): (crisp_monitor::wire::response::PodOpened, _) =
            reply.parse_with_fds(&self.shared, "open pod")?;
        let network = if network { Some(self.shared.network(fds, "open pod")?) } else { None };
        Ok(PodOpened { pid: opened.pid, init: opened.init, network })
    }

    /// The descriptors of the pod's network once more, as after a restart of the server.
    ///
    /// # Errors
    /// [`Failure::NoNetwork`] for a pod on the host's.
    pub async fn network(&self) -> Result<PodNetwork, LinkError> {
        let reply = self.ask(Op::Network, "network", &(), vec![], QUICK).await?;
        let ((), fds) = reply.parse_with_fds(&self.shared, "network")?;
        self.shared.network(fds, "network")
    }

    /// Starts a container: returns when its first process has exec'd.
    ///
    /// # Errors
    /// [`LinkError::Stage`] with the stage that failed. After [`LinkError::Deadline`] the container
    /// may yet start: signal it.
    pub async fn start(&self, request: StartRequest<'_>) -> Result<Started, LinkError> {
        let (body, fds) = request.into_parts(&self.shared)?;
        let reply = self.ask(Op::Start, "start", &body, fds, START).await?;
        self.shared.started(reply, "start")
    }

    /// Starts a further process in a container: returns when it has exec'd. Its end comes by
    /// [`wait_exec`](Self::wait_exec). Dropping the future before it is done kills the process.
    ///
    /// # Errors
    /// [`LinkError::Stage`] with the stage that failed.
    pub async fn exec(&self, request: ExecRequest<'_>) -> Result<Started, LinkError> {
        let exec = request.exec_id;
        let (body, fds) = request.into_parts(&self.shared)?;
        let guard = ExecGuard::register(&self.shared, exec)?;
        let reply = self.ask(Op::Exec, "exec", &body, fds, START).await?;
        let started = self.shared.started(reply, "exec")?;
        guard.keep();
        Ok(started)
    }

    /// An id that no exec on this link has.
    #[must_use]
    pub fn next_exec_id(&self) -> u64 {
        self.shared.next_id()
    }

    /// Waits for an exec's end, however long. May be called once it has ended, but only the first
    /// call that returns gets the answer.
    ///
    /// # Errors
    /// [`LinkError::Gone`] when the connection closed, and with it the exec ended;
    /// [`LinkError::Refused`] for an id that was never started here.
    pub async fn wait_exec(&self, exec_id: u64) -> Result<ExitStatus, LinkError> {
        self.shared.wait_exec(exec_id).await.map(|end| end.status)
    }

    /// Kills an exec and its process group.
    ///
    /// # Errors
    /// [`Failure::UnknownExec`] once it has ended.
    pub async fn kill_exec(&self, exec_id: u64) -> Result<(), LinkError> {
        self.tell(Op::KillExec, "kill exec", &body::KillExec { exec: exec_id }, vec![]).await
    }

    /// Signals a container's first process; `all`: see [`body::Signal::all`].
    ///
    /// # Errors
    /// [`Failure::UnknownContainer`], [`Failure::NotRunning`].
    pub async fn signal(&self, container: &ContainerId, signal: i32, all: bool) -> Result<(), LinkError> {
        let body = body::Signal { container: container.clone(), signal, all };
        self.tell(Op::Signal, "signal", &body, vec![]).await
    }

    /// Gives a container a new log file.
    ///
    /// # Errors
    /// [`Failure::UnknownContainer`].
    pub async fn reopen_log(&self, container: &ContainerId, log: OwnedFd) -> Result<(), LinkError> {
        let body = body::ReopenLog { container: container.clone() };
        self.tell(Op::ReopenLog, "reopen log", &body, vec![log]).await
    }

    /// Drops an ended container and its exit record.
    ///
    /// # Errors
    /// [`Failure::UnknownContainer`], [`Failure::StillRunning`].
    pub async fn forget(&self, container: &ContainerId) -> Result<(), LinkError> {
        let body = body::Forget { container: container.clone() };
        self.tell(Op::Forget, "forget", &body, vec![]).await
    }

    /// Sets the size of a container's terminal.
    ///
    /// # Errors
    /// [`Failure::NoTerminal`].
    pub async fn resize(&self, container: &ContainerId, size: WindowSize) -> Result<(), LinkError> {
        let body = body::Resize { container: container.clone(), size };
        self.tell(Op::Resize, "resize", &body, vec![]).await
    }

    /// The writing end of a container's stdin, or its terminal.
    ///
    /// # Errors
    /// [`Failure::NoStdin`].
    pub async fn open_stdin(&self, container: &ContainerId) -> Result<OwnedFd, LinkError> {
        let body = body::OpenStdin { container: container.clone() };
        let reply = self.ask(Op::OpenStdin, "open stdin", &body, vec![], QUICK).await?;
        let ((), mut fds) = reply.parse_with_fds(&self.shared, "open stdin")?;
        fds.pop().ok_or_else(|| self.shared.protocol("open stdin", "no descriptor came"))
    }

    /// Ends a container's stdin, as far as the monitor holds it.
    ///
    /// # Errors
    /// [`Failure::NoStdin`].
    pub async fn close_stdin(&self, container: &ContainerId) -> Result<(), LinkError> {
        let body = body::CloseStdin { container: container.clone() };
        self.tell(Op::CloseStdin, "close stdin", &body, vec![]).await
    }

    /// Copies a container's output from now on to the given pipes. Their other ends see
    /// end-of-file when the container has ended.
    ///
    /// # Errors
    /// [`Failure::NotRunning`].
    pub async fn attach(
        &self,
        container: &ContainerId,
        stdout: Option<OwnedFd>,
        stderr: Option<OwnedFd>,
    ) -> Result<(), LinkError> {
        let body =
            body::Attach { container: container.clone(), stdout: stdout.is_some(), stderr: stderr.is_some() };
        self.tell(Op::Attach, "attach", &body, stdout.into_iter().chain(stderr).collect()).await
    }

    /// Ends the monitor; with `force` also whatever still runs in it. Returns when its connection has
    /// closed, which is when it has exited but for a few microseconds.
    ///
    /// # Errors
    /// [`Failure::ContainersRunning`] without `force`.
    pub async fn shutdown(&self, force: bool) -> Result<(), LinkError> {
        let mut events = self.events();
        let reply = self.ask(Op::Shutdown, "shutdown", &body::Shutdown { force }, vec![], START).await?;
        let () = reply.parse(&self.shared, "shutdown")?;
        let closed = async {
            while !self.is_closed() {
                if matches!(events.recv().await, Ok(Event::Disconnected)) {
                    return;
                }
            }
        };
        let deadline = |_| LinkError::Deadline {
            monitor: self.shared.monitor.clone(),
            request: "shutdown",
            after: QUICK,
        };
        tokio::time::timeout(QUICK, closed).await.map_err(deadline)
    }

    async fn tell(
        &self,
        op: Op,
        name: &'static str,
        body: &impl serde::Serialize,
        fds: Vec<OwnedFd>,
    ) -> Result<(), LinkError> {
        self.ask(op, name, body, fds, QUICK).await?.parse(&self.shared, name)
    }

    async fn ask(
        &self,
        op: Op,
        name: &'static str,
        body: &impl serde::Serialize,
        fds: Vec<OwnedFd>,
        deadline: Duration,
    ) -> Result<reader::Reply, LinkError> {
        self.shared.call(op, name, body, &fds, self.deadline.unwrap_or(deadline)).await
    }
}

/// For what the monitor answers from memory.
const QUICK: Duration = Duration::from_secs(5);
/// Namespaces: a crowded host needs a while to make a network namespace.
const OPEN: Duration = Duration::from_secs(20);
/// Up to the exec, which reads a perhaps cold binary from disk.
const START: Duration = Duration::from_secs(60);
