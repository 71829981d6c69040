//! A session with a process at the user's terminal: the common part of exec and attach.

use std::io;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use crisp_streaming::ProcessRequest;
use crisp_streaming::client::{Endpoint, ProcessClient, ResizeWriter};
use tokio::signal::unix::{SignalKind, signal};

use super::detach_keys::DetachKeys;
use super::output;
use super::signals::Signals;
use super::terminal::{self, RawMode};

/// Time limit for the server to close the session.
const CLOSE: Duration = Duration::from_secs(5);
/// SIGPIPE.
const PIPE: u8 = 13;

/// How a session ended.
pub enum End {
    /// The process ended with this code.
    Exited(i32),
    Detached,
    /// A signal for this program; SIGPIPE also when the reader of its output has left.
    Signal(u8),
}

/// Runs the session at the endpoint's URL to its end, or until the keys `detach` come. The terminal is always
/// restored.
///
/// # Errors
/// No session, the connection was lost, or the output cannot be written.
pub async fn run(
    endpoint: Endpoint,
    request: ProcessRequest,
    detach: Option<DetachKeys>,
) -> anyhow::Result<End> {
    let mut signals = Signals::new()?;
    tokio::select! {
        end = serve(endpoint, request, detach) => end,
        number = signals.next() => Ok(End::Signal(number)),
    }
}

async fn serve(
    endpoint: Endpoint,
    request: ProcessRequest,
    detach: Option<DetachKeys>,
) -> anyhow::Result<End> {
    // Raw mode sends all keys to the program. Without input the keys stay with this terminal.
    let is_raw = request.tty && request.stdin;
    if is_raw {
        // Checked before the command begins.
        terminal::require()?;
    }
    let mut client =
        ProcessClient::connect(endpoint, request).await.context("no session with the container")?;
    let raw = if is_raw { Some(RawMode::enter()?) } else { None };
    let input = terminal::send_input(client.stdin.take(), detach);
    let sizes = send_sizes(client.resizes.take());
    let stdout = output::copy(client.stdout.take(), io::stdout);
    let stderr = output::copy(client.stderr.take(), io::stderr);
    let end = async { Ok(client.wait().await) };
    let served = async { tokio::try_join!(stdout, stderr, end) };
    let end = tokio::select! {
        served = served => match served {
            Ok((_, _, code)) => code.map(End::Exited),
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(End::Signal(PIPE)),
            Err(error) => return Err(error).context("the output cannot be written"),
        },
        true = input => Ok(End::Detached),
        never = sizes => match never {},
    };
    drop(raw);
    let end = end?;
    let _ = tokio::time::timeout(CLOSE, client.close()).await;
    Ok(end)
}

impl End {
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Exited(code) => ExitCode::from(u8::try_from(*code).unwrap_or(255)),
            Self::Detached => ExitCode::SUCCESS,
            Self::Signal(number) => ExitCode::from(128 + number),
        }
    }
}

/// Sends the terminal's size at the start and at each change, without an end.
pub async fn send_sizes(to: Option<ResizeWriter>) -> std::convert::Infallible {
    let changes = signal(SignalKind::window_change());
    if let (Some(mut to), Ok(mut changes)) = (to, changes) {
        loop {
            if let Some(size) = terminal::size()
                && to.send(size).await.is_err()
            {
                break;
            }
            if changes.recv().await.is_none() {
                break;
            }
        }
    }
    std::future::pending().await
}
