//! Exec: runs a command in a running container; its streams are those of a client of the streaming server.
//!
//! ```text
//!   stdin  ─> pipe or terminal ─> process ─> pipes or terminal ─> stdout, stderr
//!   resize ─> terminal
//!   the process's end ─> the rest of its output ─> exit code
//!   the client's end, or the server's ─> SIGHUP, and after a while SIGKILL to all processes that it started
//! ```
//!
//! After its client has left, the output of a command is read and discarded: a handler of SIGHUP that prints
//! must get to its end, and neither block nor die of SIGPIPE. A terminal stays open as long, because closing it
//! is a SIGHUP too. A server that ends does this for a second, but closes terminals at its end; after that, and
//! when the server is killed, the monitor waits for the rest of the grace time, and the output has no reader. A
//! closed terminal sends SIGHUP to its first process, and to the group of that when it ends.

use std::sync::Arc;
use std::time::Duration;

use crisp_operation::Cancel;
use crisp_sandbox::link::{LinkError, WindowSize};
use crisp_streaming::{Outcome, ProcessRequest, ProcessSession};

use super::exec::changes::Changes;
use super::exec::{self, Command, Running, Stdio, pipe};
use super::process_streams::{
    Sink, Source, Terminal, copy_input, copy_output, copy_sizes, discard, session_owner,
};
use crate::cause::{Cause, StageFailure};
use crate::container::Container;
use crate::error::RuntimeError;
use crate::service_state::ServiceState;

const OPERATION: &str = "exec_stream";
/// Time limit for the client to send the size of its terminal. All clients that people use do so at once.
const FIRST_SIZE: Duration = Duration::from_millis(100);
/// Time limit for a command to read the input of a client that has closed its session properly.
const UNREAD: Duration = Duration::from_secs(60);

/// Returns the URL; the command runs when a client connects to it.
///
/// # Errors
/// The container does not run, or too many sessions wait for their client.
pub fn container_exec(
    service: &Arc<ServiceState>,
    container: &Arc<Container>,
    words: Vec<String>,
    changes: Changes,
    request: ProcessRequest,
) -> Result<String, RuntimeError> {
    exec::pod_of_running(service, container)?;
    let grace = service.live_config().exec_grace;
    let command = Command::new(words, request.tty, grace)?.with_changes(changes);
    let owner = session_owner(&container.metadata.pod);
    // A URL that is never used keeps no container alive.
    let (serving, container) = (service.clone(), Arc::downgrade(container));
    let serve = move |session: ProcessSession| async move {
        match container.upgrade() {
            Some(container) => serve(serving, container, command, request, session).await,
            None => session.finish(Outcome::Failed("the container was removed".to_owned())).await,
        }
    };
    Ok(service.streams.process(&owner, "exec", request, serve)?)
}

async fn serve(
    service: Arc<ServiceState>,
    container: Arc<Container>,
    command: Command,
    request: ProcessRequest,
    mut session: ProcessSession,
) {
    let line = command.line.clone();
    let command = command.with_size(first_size(&mut session).await);
    match start(&service, &container, command, request).await {
        Ok((running, streams)) => {
            let _under_way = service.streamed_commands.read().await;
            run(running, streams, session, &service.closing).await;
        }
        Err(error) => session.finish(Outcome::Failed(format!("cannot run {line:?}: {error}"))).await,
    }
}

/// The size of the client's terminal. A program reads it at its start, and would draw for 0 columns
/// otherwise.
async fn first_size(session: &mut ProcessSession) -> Option<WindowSize> {
    let first = session.resizes.as_mut()?.next();
    let size = tokio::time::timeout(FIRST_SIZE, first).await.ok()??;
    Some(WindowSize { columns: size.columns, rows: size.rows })
}

/// The server's ends of a command's streams.
#[derive(Default)]
struct Streams {
    stdin: Option<Sink>,
    stdout: Option<Source>,
    stderr: Option<Source>,
    terminal: Option<Terminal>,
}

async fn start(
    service: &Arc<ServiceState>,
    container: &Arc<Container>,
    command: Command,
    request: ProcessRequest,
) -> Result<(Running, Streams), RuntimeError> {
    let pod = exec::pod_of_running(service, container)?;
    let operation = service.operation(OPERATION, container.id());
    // A process that others trace may send one unasked, and one that blocks.
    let tty = request.tty;
    let launched = exec::launch(&operation, service, container, &pod, command, || pipes(request)).await;
    let launched =
        launched.and_then(|(mut running, streams)| match running.terminal.take().filter(|_| tty) {
            None => Ok((running, streams)),
            Some(master) => {
                let master =
                    Terminal::new(master).map_err(|cause| StageFailure { stage: "terminal", cause })?;
                Ok((running, Streams::of(master, request)))
            }
        });
    Ok(operation.finish(launched).await?)
}

/// The pipes of a command without a terminal. A stream that the client does not request is a null device.
fn pipes(request: ProcessRequest) -> Result<(Stdio, Streams), Cause> {
    let (mut theirs, mut ours) = (Stdio::default(), Streams::default());
    if request.tty {
        return Ok((theirs, ours));
    }
    if request.stdin {
        let (sink, stdin) = pipe::input()?;
        (theirs.stdin, ours.stdin) = (Some(stdin), Some(Sink::Pipe(sink)));
    }
    if request.stdout {
        let (source, stdout) = pipe::output()?;
        (theirs.stdout, ours.stdout) = (Some(stdout), Some(Source::Pipe(source)));
    }
    if request.stderr {
        let (source, stderr) = pipe::output()?;
        (theirs.stderr, ours.stderr) = (Some(stderr), Some(Source::Pipe(source)));
    }
    Ok((theirs, ours))
}

impl Streams {
    fn of(terminal: Terminal, request: ProcessRequest) -> Self {
        Self {
            stdin: request.stdin.then(|| Sink::Terminal(terminal.clone())),
            stdout: request.stdout.then(|| Source::Terminal(terminal.clone())),
            stderr: None,
            terminal: Some(terminal),
        }
    }

    fn take_outputs(&mut self) -> Outputs {
        let of_terminal = || self.terminal.clone().map(Source::Terminal);
        Outputs { stdout: self.stdout.take().or_else(of_terminal), stderr: self.stderr.take() }
    }
}

/// The output of a command whose client is gone.
struct Outputs {
    stdout: Option<Source>,
    stderr: Option<Source>,
}

impl Outputs {
    /// Reads until no process has them open.
    async fn discard(mut self) {
        tokio::join!(discard(&mut self.stdout), discard(&mut self.stderr));
    }
}

async fn run(mut running: Running, streams: Streams, mut session: ProcessSession, closing: &Cancel) {
    let mut streams = streams;
    let served = serve_streams(&mut running, &mut streams, &mut session);
    // A server that ends is to its commands as a client that leaves.
    let end = tokio::select! {
        end = served => end,
        () = closing.cancelled() => None,
    };
    if end.is_none() && closing.is_cancelled() && streams.terminal.is_some() {
        // The end of this process closes the terminal, and the monitor sees to the rest. Earlier, the command would get
        // one SIGHUP from the monitor and one from the terminal.
        return std::mem::forget(streams);
    }
    match end {
        Some(Ok(code)) => {
            streams.stdin = None;
            session.finish(Outcome::Exited(code)).await;
        }
        // The monitor has lost this server: it hangs up the command.
        Some(Err(error)) => {
            let mut outputs = streams.take_outputs();
            outputs.stdout.take_if(|source| matches!(source, Source::Terminal(_)));
            // Hangs up a terminal.
            drop(streams);
            let discard = tokio::time::timeout(running.grace, outputs.discard());
            let _ = tokio::join!(session.finish(Outcome::Failed(error.to_string())), discard);
        }
        None => {
            // The client's connection is not kept during the grace period.
            drop(session);
            hang_up(running, streams).await;
        }
    }
}

/// Ends a command whose client is gone.
async fn hang_up(mut running: Running, mut streams: Streams) {
    let outputs = streams.take_outputs();
    let end = async {
        // First: the end of its input may end the command, and the monitor must know why. A terminal stays open:
        // closed, it would send SIGHUP once more.
        let hang_up = running.send_hang_up().await;
        streams.stdin = None;
        running.end_in_time(hang_up).await;
    };
    let discard = async {
        outputs.discard().await;
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = end => {}
        () = discard => {}
    }
}

/// Serves the streams to the end of the command. None when the client is gone.
async fn serve_streams(
    running: &mut Running,
    streams: &mut Streams,
    session: &mut ProcessSession,
) -> Option<Result<i32, LinkError>> {
    let Streams { stdin, stdout, stderr, terminal } = streams;
    let (ended, grace) = (Cancel::new(), running.grace);
    let (from_client, input_ended) = (session.stdin.take(), Cancel::new());
    // A terminal ends when its descriptor is closed.
    let unread = from_client.is_some().then_some(if terminal.is_some() { Duration::ZERO } else { grace });
    let input = async {
        copy_input(from_client, stdin).await;
        input_ended.cancel();
    };
    let sizes = copy_sizes(session.resizes.take(), terminal.as_ref());
    let stdout = copy_output(stdout, session.stdout.take(), &ended);
    let stderr = copy_output(stderr, session.stderr.take(), &ended);
    let end = async {
        let end = running.wait().await;
        ended.cancel();
        end
    };
    // When the link is lost, a client that reads nothing is not waited for.
    let outputs = async {
        tokio::join!(stdout, stderr);
        Ok(())
    };
    let served = async { tokio::try_join!(outputs, end).map(|((), code)| code) };
    // These two do not decide when the session ends.
    let inputs = async {
        tokio::join!(input, sizes);
        std::future::pending::<()>().await;
    };
    tokio::select! {
        end = served => Some(end),
        () = inputs => None,
        () = client_has_left(session, &input_ended, unread) => None,
    }
}

/// Returns when the client is gone. If it closed its session properly, the command may still read its input
/// and the end of it: before v5, a WebSocket has no other way to send the end. None when there is no input.
async fn client_has_left(session: &ProcessSession, input_ended: &Cancel, grace: Option<Duration>) {
    session.gone().await;
    if let Some(grace) = grace.filter(|_| session.is_closed()) {
        let _ = tokio::time::timeout(UNREAD, input_ended.cancelled()).await;
        tokio::time::sleep(grace).await;
    }
}
