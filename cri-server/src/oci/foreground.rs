//! `crisp oci run`: runs a process in the foreground and waits for it.

use std::path::Path;
use std::process::ExitCode;
use std::task::Poll;

use anyhow::Context as _;
use rustix::fd::{AsFd as _, OwnedFd};
use rustix::io::retry_on_intr;
use rustix::process::{WaitId, WaitIdOptions, getpid, set_child_subreaper, waitid};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};

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
            (Ok(()), Some(foreground)) => foreground.wait(&created.init, created.terminal),
        };
        if self.keep && code.is_ok() {
            return code;
        }
        let folder = StateFolder::lock(root, id)?;
        let record = folder.record()?;
        let deleted = delete::delete(folder, record.as_ref(), log);
        // The first failure is the important one.
        let code = code?;
        deleted.map(|()| code)
    }
}

/// A command in the foreground: signals to it are passed on and do not end it.
pub struct Foreground {
    runtime: Runtime,
    signals: Signals,
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
        let signals = {
            let _context = runtime.enter();
            Signals::new()?
        };
        Ok(Self { runtime, signals })
    }

    /// Waits for a process and passes signals on to it. `terminal` is the master of its terminal, which is
    /// relayed to the terminal of this process.
    ///
    /// # Errors
    /// The kernel's error.
    pub fn wait(self, process: &OwnedFd, terminal: Option<OwnedFd>) -> anyhow::Result<ExitCode> {
        let Self { runtime, mut signals } = self;
        runtime.block_on(async {
            let mut relay = terminal.map(Relay::new).transpose()?;
            #[allow(deprecated, reason = "it owns a copy of the descriptor")]
            let ended = AsyncFd::with_interest(process.try_clone()?, Interest::READABLE)?;
            loop {
                tokio::select! {
                    _ = ended.readable() => break,
                    number = signals.next() => pass_on(process, relay.as_ref(), number),
                    () = Relay::step(relay.as_mut()) => {}
                }
            }
            if let Some(relay) = relay {
                relay.finish();
            }
            anyhow::Ok(())
        })?;
        code(process)
    }
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
}

fn code(process: &OwnedFd) -> anyhow::Result<ExitCode> {
    let status = retry_on_intr(|| waitid(WaitId::PidFd(process.as_fd()), WaitIdOptions::EXITED));
    let status = status.context("wait for the process")?.context("the process has no exit code")?;
    let code = match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => code,
        (None, signal) => 128 + signal.unwrap_or(0),
    };
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX)))
}
