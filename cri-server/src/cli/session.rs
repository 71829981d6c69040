//! A session with a process at the user's terminal: what exec and attach share.

use std::process::ExitCode;

use anyhow::Context as _;
use crisp_streaming::client::{Endpoint, ProcessClient, ResizeWriter};
use crisp_streaming::{ProcessRequest, StreamReader};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::terminal::{self, DetachKeys, RawMode};

/// How a session ended.
pub enum End {
    /// The process ended with this code.
    Exited(i32),
    Detached,
    /// A signal asked this program to end.
    Signal(u8),
}

/// Uses the URL of the endpoint until the session ends. The terminal is as before afterwards, however it ends.
///
/// # Errors
/// No session, or the connection was lost.
pub async fn run(endpoint: Endpoint, request: ProcessRequest, detach: bool) -> anyhow::Result<End> {
    // First: without a terminal the command must not begin.
    let raw = if request.tty { Some(RawMode::enter()?) } else { None };
    let mut client =
        ProcessClient::connect(endpoint, request).await.context("no session with the container")?;
    let mut signals = Signals::new()?;
    let keys = detach.then(DetachKeys::default);
    let input = terminal::send_input(client.stdin.take(), keys);
    let sizes = send_sizes(client.resizes.take());
    let stdout = receive(client.stdout.take(), std::io::stdout());
    let stderr = receive(client.stderr.take(), std::io::stderr());
    let served = async { tokio::join!(stdout, stderr, client.wait()).2 };
    let end = tokio::select! {
        code = served => code.map(End::Exited),
        true = input => Ok(End::Detached),
        never = sizes => match never {},
        number = signals.next() => Ok(End::Signal(number)),
    };
    drop(raw);
    let end = end?;
    if !matches!(end, End::Signal(_)) {
        client.close().await;
    }
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

async fn receive(from: Option<StreamReader>, mut to: impl std::io::Write) {
    let Some(mut from) = from else { return };
    while let Ok(Some(bytes)) = from.read().await {
        if terminal::print(&mut to, &bytes).is_err() {
            return;
        }
    }
}

/// At the start and at each change, without an end.
async fn send_sizes(to: Option<ResizeWriter>) -> std::convert::Infallible {
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

/// Signals that end this program: it restores the terminal first.
struct Signals([(u8, Signal); 3]);

impl Signals {
    fn new() -> std::io::Result<Self> {
        let hear = |number, kind| Ok::<_, std::io::Error>((number, signal(kind)?));
        Ok(Self([
            hear(1, SignalKind::hangup())?,
            hear(2, SignalKind::interrupt())?,
            hear(15, SignalKind::terminate())?,
        ]))
    }

    async fn next(&mut self) -> u8 {
        let [hangup, interrupt, terminate] = &mut self.0;
        tokio::select! {
            _ = hangup.1.recv() => hangup.0,
            _ = interrupt.1.recv() => interrupt.0,
            _ = terminate.1.recv() => terminate.0,
        }
    }
}
