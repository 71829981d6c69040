//! This server's fork server: a monitor that has started and makes copies of itself for pods. See
//! [`crisp_monitor::fork_server`].

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crisp_executor::{Program, ProgramError};
use crisp_monitor::fork_server::{
    ForkError, ForkRequest, Forked, UNNAMED, receive_answer, receive_ready, send_request,
};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair, sockopt};
use rustix::process::{Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};

/// For an answer, on a host that thrashes.
const ANSWER: Duration = Duration::from_secs(8);

/// At most one process, started when it is first needed, and again when it has ended.
#[derive(Debug, Default)]
pub(crate) struct ForkServer(Mutex<State>);

#[derive(Debug, Default)]
enum State {
    #[default]
    NotStarted,
    Runs(Process),
    /// The program cannot be a fork server: it is of an earlier release.
    Unable,
}

/// What became of a request.
pub(crate) enum Outcome {
    Forked(Forked),
    /// Nothing was requested: the program has to be run.
    Unable,
}

impl ForkServer {
    /// Makes a copy for the monitor of a pod. `program` is what the fork server runs. Blocks.
    ///
    /// # Errors
    /// [`ForkError`]. After any but [`ForkError::Clone`] there may be a copy: the pod must not have another one
    /// before that is killed.
    pub(crate) fn fork(
        &self,
        program: BorrowedFd<'_>,
        request: &ForkRequest<BorrowedFd<'_>>,
    ) -> Result<Outcome, ForkError> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let State::Runs(process) = &*state {
            match process.request(request) {
                Ok(()) => {
                    return process.answer().map(Outcome::Forked).inspect_err(|error| end(&mut state, error));
                }
                // It has ended before it got the request.
                Err(error) => end(&mut state, &error),
            }
        }
        if matches!(*state, State::NotStarted) {
            *state = start(program);
        }
        let State::Runs(process) = &*state else { return Ok(Outcome::Unable) };
        let forked = process.request(request).and_then(|()| process.answer());
        forked.map(Outcome::Forked).inspect_err(|error| end(&mut state, error))
    }
}

/// What it was in the middle of when an exchange failed is not known: the next one has a new process.
fn end(state: &mut State, error: &ForkError) {
    if !matches!(error, ForkError::Clone { .. }) {
        tracing::warn!(%error, "the fork server does not answer; ending it");
        *state = State::NotStarted;
    }
}

fn start(program: BorrowedFd<'_>) -> State {
    match Process::start(program) {
        Ok(process) => State::Runs(process),
        Err(StartError::Ready(ForkError::Ended)) => State::Unable,
        Err(error) => {
            tracing::warn!(%error, "cannot start a fork server; monitors start without one");
            State::NotStarted
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum StartError {
    #[error(transparent)]
    Run(#[from] ProgramError),
    #[error("its socket: {}", std::io::Error::from(*.0))]
    Socket(#[from] Errno),
    #[error(transparent)]
    Ready(ForkError),
}

/// Ends when dropped.
#[derive(Debug)]
struct Process {
    socket: OwnedFd,
    pidfd: OwnedFd,
}

impl Process {
    fn start(program: BorrowedFd<'_>) -> Result<Self, StartError> {
        let (socket, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(ANSWER))?;
        let args = [c"crisp-pod".to_owned(), std::ffi::CString::new(UNNAMED).unwrap_or_default()];
        let null = open_null()?;
        // Not this server's streams: who reads those sees their end with the server's.
        let stdio = [theirs.as_fd(), null.as_fd(), null.as_fd()];
        let spawned = Program { file: program, args: &args, stdio, cgroup: None }.spawn()?;
        drop(theirs);
        let process = Self { socket, pidfd: spawned.pidfd };
        receive_ready(&process.socket).map_err(StartError::Ready)?;
        Ok(process)
    }

    fn request(&self, request: &ForkRequest<BorrowedFd<'_>>) -> Result<(), ForkError> {
        send_request(&self.socket, request)
    }

    fn answer(&self) -> Result<Forked, ForkError> {
        receive_answer(&self.socket)
    }
}

/// A stream of a monitor that leads nowhere.
pub(crate) fn open_null() -> Result<OwnedFd, Errno> {
    openat(CWD, c"/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
        let _ = waitid(WaitId::PidFd(self.pidfd.as_fd()), WaitIdOptions::EXITED);
    }
}
