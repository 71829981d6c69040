//! Attach: connects a client of the streaming server to a running container, in addition to its log.
//!
//! ```text
//!   container ─> monitor ─┬─> log
//!                         ├─> pipe ─> backlog ─> client      a client that is too slow is cut off here
//!                         └─> pipe ─> backlog ─> client
//!   stdin or terminal  <──────────────────────── client
//! ```
//!
//! The monitor waits a moment for a full pipe and then closes it: a server that does not run must not block
//! the container. The client of such a pipe is told that it misses output.

use std::sync::Arc;
use std::time::Duration;

use crisp_executor::ids::ContainerId;
use crisp_operation::Cancel;
use crisp_sandbox::link::{Failure, LinkError, MonitorLink, WindowSize};
use crisp_streaming::{Outcome, ProcessRequest, ProcessSession, Resizes, StreamWriter};

use super::attach_output::{self, Copied};
use super::exec::{pipe, pod_of_running};
use super::process_streams::{Sink, Source, Terminal, copy_input, session_owner};
use crate::cause::Cause;
use crate::container::Container;
use crate::container::state::State;
use crate::error::RuntimeError;
use crate::service_state::ServiceState;

const OPERATION: &str = "attach_container";
const START: Duration = Duration::from_secs(15);
/// Capacity of the pipe to this server, where the kernel allows it.
const PIPE: usize = 1 << 20;
/// Time limit for the container to read the input of a client that has left.
const INPUT: Duration = Duration::from_secs(10);
const TOO_SLOW: &str = "the client was cut off because it read too slowly: the log has all output";
const MISSED: &str = "the server was too busy to read all output: the log has all of it";

/// Returns the URL at which a client is attached.
///
/// # Errors
/// The container does not run, or too many sessions wait for their client.
pub fn container_attach(
    service: &Arc<ServiceState>,
    container: &Arc<Container>,
    request: ProcessRequest,
) -> Result<String, RuntimeError> {
    pod_of_running(service, container)?;
    let owner = session_owner(&container.metadata.pod);
    // A URL that is never used keeps no container alive.
    let (serving, container) = (service.clone(), Arc::downgrade(container));
    let serve = move |session: ProcessSession| async move {
        match container.upgrade() {
            Some(container) => serve(serving, container, request, session).await,
            None => session.finish(Outcome::Failed("the container was removed".to_owned())).await,
        }
    };
    Ok(service.streams.process(&owner, "attach", request, serve)?)
}

async fn serve(
    service: Arc<ServiceState>,
    container: Arc<Container>,
    request: ProcessRequest,
    mut session: ProcessSession,
) {
    let outcome = match start(&service, &container, request).await {
        Ok(attached) => run(&container, attached, &mut session).await,
        Err(error) => Some(Outcome::Failed(error.to_string())),
    };
    if let Some(outcome) = outcome {
        session.finish(outcome).await;
    }
}

/// The server's ends of a container's streams.
struct Attached {
    link: MonitorLink,
    stdin: Option<Sink>,
    stdout: Option<Source>,
    stderr: Option<Source>,
}

async fn start(
    service: &ServiceState,
    container: &Container,
    request: ProcessRequest,
) -> Result<Attached, RuntimeError> {
    let pod = pod_of_running(service, container)?;
    let operation = service.operation(OPERATION, container.id());
    let attached = operation.stage("attach", START, |_| attach(pod.link(), container, request)).await;
    Ok(operation.finish(attached).await?)
}

async fn attach(
    link: Result<MonitorLink, crisp_sandbox::NotReady>,
    container: &Container,
    request: ProcessRequest,
) -> Result<Attached, Cause> {
    let link = link?;
    let id = container.id();
    let output = |wanted: bool| wanted.then(|| pipe::large_output(PIPE)).transpose();
    let (stdout, stderr) = (output(request.stdout)?.unzip(), output(request.stderr)?.unzip());
    link.attach(id, stdout.1, stderr.1).await?;
    let stdin = if request.stdin { stdin(&link, id, container.metadata.config.tty).await? } else { None };
    Ok(Attached { link, stdin, stdout: stdout.0.map(Source::Pipe), stderr: stderr.0.map(Source::Pipe) })
}

/// None when the container was created without input, or its only client has left.
async fn stdin(link: &MonitorLink, id: &ContainerId, tty: bool) -> Result<Option<Sink>, Cause> {
    match link.open_stdin(id).await {
        Ok(terminal) if tty => Ok(Some(Sink::Terminal(Terminal::new(terminal)?))),
        Ok(stdin) => Ok(Some(Sink::Pipe(pipe::sender(stdin)?))),
        Err(error) if matches!(error.failure(), Some(Failure::NoStdin { .. })) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// None when the client is gone.
async fn run(container: &Container, attached: Attached, session: &mut ProcessSession) -> Option<Outcome> {
    let Attached { link, mut stdin, stdout, stderr } = attached;
    let ended = Cancel::new();
    let input = copy_input(session.stdin.take(), &mut stdin);
    let sizes = copy_sizes(session.resizes.take(), &link, container.id());
    let output = Output { container, link: &link, ended: &ended };
    let stdout = output.copy(stdout, session.stdout.take(), Which::Stdout);
    let stderr = output.copy(stderr, session.stderr.take(), Which::Stderr);
    let end = async {
        until_ended(container).await;
        ended.cancel();
        Ok(())
    };
    let served = async { tokio::try_join!(stdout, stderr, end) };
    let input_ended = Cancel::new();
    let input = async {
        input.await;
        input_ended.cancel();
    };
    let inputs = async {
        tokio::join!(input, sizes);
        std::future::pending::<()>().await;
    };
    // A client that closed its session properly may have sent input that is not delivered yet.
    let left = async {
        session.gone().await;
        if session.is_closed() {
            let _ = tokio::time::timeout(INPUT, input_ended.cancelled()).await;
        }
    };
    tokio::select! {
        served = served => Some(match served {
            Ok(_) => Outcome::Exited(0),
            Err(why) => Outcome::Failed(why.to_owned()),
        }),
        () = inputs => None,
        () = left => None,
    }
}

#[derive(Debug, Clone, Copy)]
enum Which {
    Stdout,
    Stderr,
}

struct Output<'a> {
    container: &'a Container,
    link: &'a MonitorLink,
    ended: &'a Cancel,
}

impl Output<'_> {
    /// Copies one output to its end. The error is the reason why the client does not get all of it.
    async fn copy(
        &self,
        from: Option<Source>,
        to: Option<StreamWriter>,
        which: Which,
    ) -> Result<(), &'static str> {
        let (Some(mut from), Some(to)) = (from, to) else { return Ok(()) };
        match attach_output::copy(&mut from, to, self.ended).await {
            Copied::All if self.goes_on(which).await => Err(MISSED),
            Copied::All | Copied::ClientLeft => Ok(()),
            Copied::TooSlow => Err(TOO_SLOW),
        }
    }

    /// Whether the output continues although its pipe has ended. The monitor closes a new pipe at once when
    /// the container has closed its output, and refuses it when the container has ended.
    async fn goes_on(&self, which: Which) -> bool {
        if self.ended.is_cancelled() {
            return false;
        }
        let Ok((further, write)) = pipe::output() else { return false };
        let (stdout, stderr) = match which {
            Which::Stdout => (Some(write), None),
            Which::Stderr => (None, Some(write)),
        };
        let attached = self.link.attach(self.container.id(), stdout, stderr).await;
        attached.is_ok() && !pipe::is_closed(&further)
    }
}

/// Returns when the container no longer runs.
async fn until_ended(container: &Container) {
    let mut status = container.subscribe();
    // An error means that the container was removed.
    let _ = status.wait_for(|status| !matches!(status.state, State::Running { .. })).await;
}

async fn copy_sizes(from: Option<Resizes>, link: &MonitorLink, id: &ContainerId) {
    let Some(mut from) = from else { return };
    while let Some(size) = from.next().await {
        let size = WindowSize { columns: size.columns, rows: size.rows };
        // Fails for a container without a terminal, which has no size.
        let _: Result<(), LinkError> = link.resize(id, size).await;
    }
}
