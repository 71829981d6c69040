//! `crisp oci run`: runs a process in the foreground and waits for it.

use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::task::Poll;

use anyhow::Context as _;
use rustix::fd::OwnedFd;
use rustix::process::{WaitOptions, WaitStatus, getpid, set_child_subreaper, wait};
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::id::OciId;
use super::options::CreateOptions;
use super::relay::Relay;
use super::runtime_log::RuntimeLog;
use super::state_folder::StateFolder;
use super::{create, delete, protected_program, start, streams};

const SIGHUP: i32 = 1;
const SIGINT: i32 = 2;
const SIGQUIT: i32 = 3;
const SIGUSR1: i32 = 10;
const SIGUSR2: i32 = 12;
const SIGTERM: i32 = 15;
const SIGWINCH: i32 = 28;

/// Create and start a container, wait for its end and delete it
#[derive(Debug, clap::Args)]
pub struct Run {
    /// Return as soon as the container runs
    #[arg(long, short)]
    detach: bool,
    /// Do not delete the container when it ends
    #[arg(long)]
    keep: bool,
    #[command(flatten)]
    options: CreateOptions,
}

impl Run {
    pub fn run(self, root: &Path, log: &RuntimeLog) -> anyhow::Result<ExitCode> {
        let id = &self.options.id;
        protected_program::ensure()?;
        streams::check_preserved(self.options.process.preserve_fds)?;
        let foreground = if self.detach { None } else { Some(Foreground::begin()?) };
        let created = create::create(root, &self.options, !self.detach, log)?;
        let code = match (start::start(root, id, log), foreground) {
            (Err(error), _) => Err(error),
            (Ok(()), None) => return Ok(ExitCode::SUCCESS),
            (Ok(()), Some(foreground)) => foreground.wait(created.pid, &created.init, created.terminal),
        };
        if self.keep && code.is_ok() {
            return code;
        }
        // The exit code, or the first failure, is the important one.
        if let Err(error) = remove(root, id, log) {
            let text = format!("container {id} could not be deleted: {error:#}");
            log.warn(&text);
            let _ = writeln!(std::io::stderr(), "crisp: {text}");
        }
        code
    }
}

/// Does nothing if another command has deleted the container meanwhile.
fn remove(root: &Path, id: &OciId, log: &RuntimeLog) -> anyhow::Result<()> {
    let Some(folder) = StateFolder::lock_if_present(root, id)? else { return Ok(()) };
    let record = folder.record()?;
    delete::delete(folder, record.as_ref(), log)
}

/// A command in the foreground: signals to it are passed on and do not end it.
pub struct Foreground {
    runtime: Runtime,
    signals: Signals,
    children: Signal,
}

impl Foreground {
    /// Call this before the process is started, so that an early signal is passed on too. Processes that are
    /// started from now on become children of this one, which waits for them.
    ///
    /// # Errors
    /// The kernel's error.
    pub fn begin() -> anyhow::Result<Self> {
        set_child_subreaper(Some(getpid())).context("become the parent of the container's process")?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (signals, children) = {
            let _context = runtime.enter();
            (Signals::new()?, signal(SignalKind::child())?)
        };
        Ok(Self { runtime, signals, children })
    }

    /// Waits for the process `pid`, whose pidfd is `process`, and passes signals on to it. `terminal` is the
    /// master of its terminal, which is relayed to the terminal of this process.
    ///
    /// # Errors
    /// The kernel's error.
    pub fn wait(self, pid: i32, process: &OwnedFd, terminal: Option<OwnedFd>) -> anyhow::Result<ExitCode> {
        let Self { runtime, mut signals, mut children } = self;
        runtime.block_on(async {
            let mut relay = terminal.map(Relay::new).transpose()?;
            let status = loop {
                if let Some(status) = reap(pid)? {
                    break status;
                }
                tokio::select! {
                    _ = children.recv() => {}
                    number = signals.next() => pass_on(process, relay.as_ref(), number),
                    () = Relay::step(relay.as_mut()) => {}
                }
            };
            if let Some(relay) = relay {
                // The reader of our output may be slow, or gone: a signal ends the wait for it.
                tokio::select! {
                    () = relay.finish() => {}
                    () = signals.next_to_end() => {}
                }
            }
            Ok(code(status))
        })
    }
}

/// Reaps all children that have ended. The orphans of a container without a PID namespace of its own become
/// children of this process, and count as processes of the container until they are reaped. Returns the exit
/// status of `pid` if it has ended.
fn reap(pid: i32) -> anyhow::Result<Option<WaitStatus>> {
    while let Some((child, status)) = wait(WaitOptions::NOHANG).context("wait for the process")? {
        if child.as_raw_nonzero().get() == pid {
            return Ok(Some(status));
        }
    }
    Ok(None)
}

/// A process that has ended needs no signal.
fn pass_on(process: &OwnedFd, relay: Option<&Relay>, number: i32) {
    match relay {
        Some(relay) if number == SIGWINCH => relay.resize(),
        _ => {
            let _ = crisp_executor::pidfd_send_signal(process, number);
        }
    }
}

/// The signals that are passed on: those by which programs are controlled.
struct Signals(Vec<(i32, Signal)>);

impl Signals {
    fn new() -> std::io::Result<Self> {
        let hear = |number| Ok((number, signal(SignalKind::from_raw(number))?));
        [SIGHUP, SIGINT, SIGQUIT, SIGUSR1, SIGUSR2, SIGTERM, SIGWINCH]
            .into_iter()
            .map(hear)
            .collect::<Result<_, _>>()
            .map(Self)
    }

    async fn next(&mut self) -> i32 {
        std::future::poll_fn(|context| {
            let mut all = self.0.iter_mut();
            let came =
                all.find_map(|(number, signal)| signal.poll_recv(context).is_ready().then_some(*number));
            came.map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }

    /// The next one that asks programs to end.
    async fn next_to_end(&mut self) {
        while !matches!(self.next().await, SIGHUP | SIGINT | SIGQUIT | SIGTERM) {}
    }
}

fn code(status: WaitStatus) -> ExitCode {
    let code = match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => code,
        (None, signal) => 128 + signal.unwrap_or(0),
    };
    ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX))
}
