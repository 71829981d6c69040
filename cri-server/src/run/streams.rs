//! Connects the standard streams of this program to the only container of a `crisp run IMAGE`.
//!
//! | | input | output |
//! |---|---|---|
//! | without -t | attached, with -i | the log, whole, without names |
//! | with -t | attached, with -i | attached; the log for earlier output |

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crisp_proto::crisp::v1::KillContainerRequest;
use crisp_proto::crisp::v1::containers_server::Containers as _;
use crisp_proto::runtime::v1::AttachRequest;
use crisp_proto::runtime::v1::runtime_service_server::RuntimeService as _;
use crisp_runtime_service::RuntimeService;
use crisp_streaming::ProcessRequest;
use crisp_streaming::client::{Endpoint, ProcessClient};
use tonic::Request;

use super::image::{Options, write_id};
use super::output::{Output, Printer, print_log};
use super::report::notice;
use super::stop_request::StopRequests;
use crate::cli::{output, session, terminal};
use crate::rpc_error::refused;

/// The exit code when the reader of the output has left: that of a program that SIGPIPE ends.
const NO_READER: u8 = 141;
/// Time limit for the last output after the container has ended.
const LAST: Duration = Duration::from_secs(3);

/// The streams and the container that uses them.
pub struct Streams {
    options: Options,
    running: Mutex<Option<(RuntimeService, String)>>,
    /// Whether attached output has been shown.
    is_shown: Arc<AtomicBool>,
    has_run: AtomicBool,
}

impl Streams {
    /// Streams by the options.
    ///
    /// # Errors
    /// -i and -t without a terminal.
    pub fn new(options: &Options) -> anyhow::Result<Self> {
        if options.interactive && options.tty {
            terminal::require()?;
        }
        Ok(Self {
            options: options.clone(),
            running: Mutex::default(),
            is_shown: Arc::default(),
            has_run: AtomicBool::new(false),
        })
    }

    /// Shows the output of a container without a terminal.
    pub fn output(&self, log: PathBuf, stop: &StopRequests) -> Option<Output> {
        // As with a pipe: a program without a reader is ended.
        let stop = stop.clone();
        let closed = move || stop.stop_with(NO_READER);
        (!self.options.tty).then(|| Output::show_until_closed(log, Printer::plain(), closed))
    }

    /// Whether the container has been started at least once.
    pub fn has_run(&self) -> bool {
        self.has_run.load(Ordering::Relaxed)
    }

    /// Connects the streams while `work`, which follows the container to its end, runs.
    pub async fn beside<T>(
        &self,
        runtime: &RuntimeService,
        id: &str,
        log: &Path,
        work: impl Future<Output = T>,
    ) -> T {
        *self.lock() = Some((runtime.clone(), id.to_owned()));
        self.is_shown.store(false, Ordering::Relaxed);
        // Of the first container: the file is there when it is started again.
        if !self.has_run.swap(true, Ordering::Relaxed)
            && let Err(error) = write_id(&self.options, id)
        {
            notice(format_args!("{error:#}"));
        }
        let session = async {
            // The session does not have earlier output. A container that has ended has no session either.
            if self.options.tty && matches!(print_log(log), Ok(true)) {
                self.is_shown.store(true, Ordering::Relaxed);
            }
            self.session(runtime, id).await
        };
        tokio::pin!(work, session);
        let ended = tokio::select! {
            ended = &mut work => {
                // A container that had already ended has no session: its output is in the log.
                let _ = tokio::time::timeout(LAST, session).await;
                ended
            }
            result = &mut session => {
                tokio::pin!(work);
                let ended = tokio::time::timeout(LAST, &mut work).await;
                if let (Err(_), Err(error)) = (&ended, result) {
                    notice(format_args!("the session with the container is broken: {error:#}; Ctrl-C ends it"));
                }
                match ended {
                    Ok(ended) => ended,
                    Err(_) => work.await,
                }
            }
        };
        *self.lock() = None;
        if self.options.tty && !self.is_shown.load(Ordering::Relaxed) {
            let _ = print_log(log);
        }
        ended
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<(RuntimeService, String)>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a signal to the container. Returns false when none runs.
    pub async fn forward(&self, signal: &str) -> bool {
        let Some((runtime, container_id)) = self.lock().clone() else { return false };
        let request = KillContainerRequest { container_id, signal: signal.to_owned() };
        runtime.kill(Request::new(request)).await.is_ok()
    }

    async fn session(&self, runtime: &RuntimeService, id: &str) -> anyhow::Result<()> {
        let (stdin, tty) = (self.options.interactive, self.options.tty);
        if !(stdin || tty) {
            return Ok(());
        }
        let request = AttachRequest { container_id: id.to_owned(), stdin, tty, stdout: tty, stderr: false };
        let url = runtime.attach(Request::new(request)).await.map_err(refused)?.into_inner().url;
        let streams = ProcessRequest { stdin, stdout: tty, stderr: false, tty };
        let mut client = ProcessClient::connect(Endpoint::from(url.as_str()), streams).await?;
        let raw = if stdin && tty { Some(terminal::RawMode::enter()?) } else { None };
        let input = terminal::send_input(client.stdin.take(), None);
        let sizes = session::send_sizes(client.resizes.take());
        let is_shown = Arc::clone(&self.is_shown);
        let stdout = output::copy(client.stdout.take(), move || ObservedStdout { is_shown });
        let served = async { tokio::join!(stdout, client.wait()) };
        let served = tokio::select! {
            served = served => served.1.map(drop),
            _ = input => Ok(()),
            never = sizes => match never {},
        };
        drop(raw);
        Ok(served?)
    }
}

/// docker's exit codes for a container that cannot be started: 127 when its program does not exist, 126 when
/// it cannot be run, 125 otherwise.
pub fn start_error(reason: &str) -> i32 {
    let Some((_, of_program)) = reason.split_once("exec \"") else { return 125 };
    let is_missing = ["not found in $PATH", "no such file", "does not exist", "is missing"];
    if is_missing.iter().any(|text| of_program.contains(text)) { 127 } else { 126 }
}

/// Standard output that records whether something was written.
struct ObservedStdout {
    is_shown: Arc<AtomicBool>,
}

impl Write for ObservedStdout {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.is_shown.store(true, Ordering::Relaxed);
        io::stdout().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stdout().flush()
    }
}
