//! The server's fork server: a monitor that has started and makes copies of itself for pods. See
//! [`crisp_monitor::fork_server`].

use std::ffi::CString;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crisp_executor::{Program, ProgramError, ProgramFile, SpawnOptions};
use crisp_monitor::fork_server::{
    ForkError, ForkRequest, Forked, UNNAMED, receive_ready, receive_response, send_request,
};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair, sockopt};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};

/// Time limit for a response, on a thrashing host.
const ANSWER: Duration = Duration::from_secs(8);
/// Time limit for another request. Running the program takes less.
const TURN: Duration = Duration::from_millis(500);
/// Pause after a failed start.
const PAUSE: Duration = Duration::from_secs(60);

/// At most one process, started when it is first needed, and again after it has ended.
///
/// ```text
///   Idle(None) --started--> Idle(process) <--answered-- InUse
///       ^                         +-------begin-----------^ |
///       +--not before PAUSE-- failed to start               | no answer: killed
///       +---------------------------------------------------+
/// ```
///
/// A request has two parts, [`begin`](Self::begin) and [`Pending::finish`]: the caller does other work while the
/// copy is made.
#[derive(Debug, Default)]
pub(crate) struct ForkServer {
    state: Mutex<State>,
    idle: Condvar,
}

#[derive(Debug)]
enum State {
    Idle { process: Option<Process>, not_before: Option<Instant> },
    InUse,
}

impl Default for State {
    fn default() -> Self {
        Self::Idle { process: None, not_before: None }
    }
}

/// A request whose answer was not received yet. When dropped, it receives the answer, and ends the copy.
#[derive(Debug)]
pub(crate) struct Pending<'a> {
    server: &'a ForkServer,
    /// None after the answer.
    process: Option<Process>,
}

impl ForkServer {
    /// Requests a copy for the monitor of a pod. `program` is the program of the fork server. None when there
    /// is no fork server: the program must be run. Blocks, for microseconds if the fork server runs.
    ///
    /// # Errors
    /// [`ForkError`]: there is no copy.
    pub(crate) fn begin(
        &self,
        program: BorrowedFd<'_>,
        request: &ForkRequest<BorrowedFd<'_>>,
    ) -> Result<Option<Pending<'_>>, ForkError> {
        let Some(mut process) = self.take(program) else { return Ok(None) };
        let mut sent = process.request(request);
        if let Err(error) = &sent {
            // It ended before it received the request.
            tracing::warn!(%error, said = process.complaint(), "the fork server has ended; starting another");
            drop(process);
            self.put(None, None);
            let Some(another) = self.take(program) else { return Ok(None) };
            process = another;
            sent = process.request(request);
        }
        match sent {
            Ok(()) => Ok(Some(Pending { server: self, process: Some(process) })),
            Err(error) => Err(self.failed(process, error)),
        }
    }

    /// Ends a process that did not answer. The state of its request is unknown: the next one uses a new process.
    fn failed(&self, process: Process, error: ForkError) -> ForkError {
        tracing::warn!(%error, said = process.complaint(), "the fork server fails; ending it");
        drop(process);
        self.put(None, None);
        error
    }

    /// Takes the process for exclusive use. None when there is none soon.
    fn take(&self, program: BorrowedFd<'_>) -> Option<Process> {
        let in_use = |state: &mut State| matches!(state, State::InUse);
        let waited = self.idle.wait_timeout_while(self.lock(), TURN, in_use);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        let State::Idle { process, not_before } = &mut *state else { return None };
        if let Some(process) = process.take() {
            *state = State::InUse;
            return Some(process);
        }
        if not_before.is_some_and(|time| time > Instant::now()) {
            return None;
        }
        *state = State::InUse;
        drop(state);
        match Process::start(program) {
            Ok(process) => Some(process),
            Err(error) => {
                tracing::warn!(%error, again_in = ?PAUSE, "cannot start a fork server; monitors start slower");
                self.put(None, Some(Instant::now() + PAUSE));
                None
            }
        }
    }

    fn put(&self, process: Option<Process>, not_before: Option<Instant>) {
        *self.lock() = State::Idle { process, not_before };
        self.idle.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pending<'_> {
    /// Receives the answer. Blocks.
    ///
    /// # Errors
    /// [`ForkError`]. After any error except [`ForkError::Clone`] there may be a copy: it must be killed
    /// before the pod gets another one.
    pub(crate) fn finish(mut self) -> Result<Forked, ForkError> {
        self.receive().unwrap_or(Err(ForkError::Ended))
    }

    /// None after the first call.
    fn receive(&mut self) -> Option<Result<Forked, ForkError>> {
        let process = self.process.take()?;
        Some(match process.receive() {
            answer @ (Ok(_) | Err(ForkError::Clone { .. })) => {
                self.server.put(Some(process), None);
                answer
            }
            Err(error) => Err(self.server.failed(process, error)),
        })
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        if let Some(Ok(forked)) = self.receive() {
            let _ = pidfd_send_signal(&forked.pidfd, Signal::KILL);
            let _ = waitid(WaitId::PidFd(forked.pidfd.as_fd()), WaitIdOptions::EXITED);
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum StartError {
    #[error(transparent)]
    Run(#[from] ProgramError),
    #[error("its socket: {}", std::io::Error::from(*.0))]
    Socket(#[from] Errno),
    #[error("{error}; it says: {said:?}")]
    Ready { error: ForkError, said: String },
}

/// The process; killed when dropped.
#[derive(Debug)]
struct Process {
    socket: OwnedFd,
    pidfd: OwnedFd,
    /// The other end of its descriptor 2.
    errors: OwnedFd,
}

impl Process {
    fn start(program: BorrowedFd<'_>) -> Result<Self, StartError> {
        let (socket, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(ANSWER))?;
        let args = [c"crisp-pod".to_owned(), CString::new(UNNAMED).unwrap_or_default()];
        let null = open_null()?;
        // Not this server's streams: their readers expect the end of the stream when the server ends.
        let (errors, stderr) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        let stdio = [theirs.as_fd(), null.as_fd(), stderr.as_fd()];
        let (file, options) = (ProgramFile::Open(program), SpawnOptions::default());
        let spawned = Program { file, args: &args, env: &[], stdio, cgroup: None, options }.spawn()?;
        drop((theirs, stderr));
        let process = Self { socket, pidfd: spawned.pidfd, errors };
        match receive_ready(&process.socket) {
            Ok(()) => Ok(process),
            Err(error) => Err(StartError::Ready { error, said: process.complaint() }),
        }
    }

    fn request(&self, request: &ForkRequest<BorrowedFd<'_>>) -> Result<(), ForkError> {
        send_request(&self.socket, request)
    }

    fn receive(&self) -> Result<Forked, ForkError> {
        receive_response(&self.socket)
    }

    /// The text that it has written to its descriptor 2.
    fn complaint(&self) -> String {
        let mut text = [0; 1024];
        let length = rustix::io::read(&self.errors, &mut text).unwrap_or_default();
        String::from_utf8_lossy(&text[..length]).trim_end().to_owned()
    }
}

/// A null device as a stream of a monitor.
pub(crate) fn open_null() -> Result<OwnedFd, Errno> {
    openat(CWD, c"/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
        // In another thread: a process that hangs in the kernel ends only when the kernel allows it.
        let Ok(pidfd) = self.pidfd.try_clone() else { return };
        let reap = move || waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED);
        let _ = std::thread::Builder::new().name("reaper".to_owned()).spawn(reap);
    }
}
