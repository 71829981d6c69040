//! Attach: a client of the streaming server beside the log of a running container.
//!
//! ```text
//!   container ─> monitor ─┬─> log
//!                         ├─> pipe ─> client       a client that is too slow is cut off: its pipe closes
//!                         └─> pipe ─> client
//!   stdin or terminal  <───── client
//! ```

use std::sync::Arc;
use std::time::Duration;

use crisp_executor::id::ContainerId;
use crisp_operation::Cancel;
use crisp_sandbox::link::{Failure, LinkError, MonitorLink, WindowSize};
use crisp_streaming::{Outcome, ProcessRequest, ProcessSession, Resizes};

use super::exec::{pipe, pod_of_running};
use super::process_streams::{Sink, Source, Terminal, copy_input, copy_output};
use crate::cause::Cause;
use crate::container::Container;
use crate::container::state::State;
use crate::error::RuntimeError;
use crate::service_state::ServiceState;

const OPERATION: &str = "attach_container";
const START: Duration = Duration::from_secs(15);
/// What a client may be behind before it is cut off.
const BEHIND: usize = 1 << 20;
/// From the end of a container's output to the news that it has ended.
const NEWS: Duration = Duration::from_secs(3);

/// Returns the URL at which a client is attached.
///
/// # Errors
/// A container that does not run, or too many sessions that no client has come for.
pub fn container_attach(
    service: &Arc<ServiceState>,
    container: &Arc<Container>,
    request: ProcessRequest,
) -> Result<String, RuntimeError> {
    pod_of_running(service, container)?;
    let (serving, container) = (service.clone(), container.clone());
    let serve = move |session| serve(serving, container, request, session);
    Ok(service.streams.process("attach", request, serve)?)
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

/// Our ends of a container's streams.
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
    let output = |wanted: bool| wanted.then(|| pipe::large_output(BEHIND)).transpose();
    let (stdout, stderr) = (output(request.stdout)?.unzip(), output(request.stderr)?.unzip());
    link.attach(id, stdout.1, stderr.1).await?;
    let stdin = if request.stdin { stdin(&link, id, container.metadata.config.tty).await? } else { None };
    Ok(Attached { link, stdin, stdout: stdout.0.map(Source::Pipe), stderr: stderr.0.map(Source::Pipe) })
}

/// None: the container was created without, or its only client had it.
async fn stdin(link: &MonitorLink, id: &ContainerId, tty: bool) -> Result<Option<Sink>, Cause> {
    match link.open_stdin(id).await {
        Ok(terminal) if tty => Ok(Some(Sink::Terminal(Terminal::new(terminal)?))),
        Ok(stdin) => Ok(Some(Sink::Pipe(pipe::sender(stdin)?))),
        Err(error) if matches!(error.failure(), Some(Failure::NoStdin { .. })) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// None: the client is gone.
async fn run(container: &Container, attached: Attached, session: &mut ProcessSession) -> Option<Outcome> {
    let Attached { link, stdin, stdout, stderr } = attached;
    let never = Cancel::new();
    let has_output = stdout.is_some() || stderr.is_some();
    let input = copy_input(session.stdin.take(), stdin);
    let sizes = copy_sizes(session.resizes.take(), &link, container.id());
    let stdout = copy_output(stdout, session.stdout.take(), &never);
    let stderr = copy_output(stderr, session.stderr.take(), &never);
    let outputs = async {
        tokio::join!(stdout, stderr);
        if has_output {
            tokio::time::timeout(NEWS, ended(container)).await.is_ok()
        } else {
            ended(container).await
        }
    };
    let inputs = async {
        tokio::join!(input, sizes);
        std::future::pending::<()>().await;
    };
    let is_over = tokio::select! {
        is_over = outputs => is_over,
        () = inputs => return None,
        () = session.gone() => return None,
    };
    if is_over {
        return Some(Outcome::Exited(0));
    }
    Some(Outcome::Failed(
        "the client was cut off because it read too slowly: the log has all output".to_owned(),
    ))
}

/// Returns true when the container does not run any more.
async fn ended(container: &Container) -> bool {
    let mut status = container.subscribe();
    // An error means that the container was removed.
    let _ = status.wait_for(|status| !matches!(status.state, State::Running { .. })).await;
    true
}

async fn copy_sizes(from: Option<Resizes>, link: &MonitorLink, id: &ContainerId) {
    let Some(mut from) = from else { return };
    while let Some(size) = from.next().await {
        let size = WindowSize { columns: size.columns, rows: size.rows };
        // A container without a terminal has no size.
        let _: Result<(), LinkError> = link.resize(id, size).await;
    }
}
