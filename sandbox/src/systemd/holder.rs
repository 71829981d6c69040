//! The first process of a scope: systemd makes no empty scopes. It does nothing, and ends when it is dropped
//! or when this server ends for any reason.

use std::ffi::CString;
use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use crisp_executor::Spawned;
use crisp_executor::ids::PodId;
use crisp_monitor::SCOPE_HOLDER;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};

use crate::fork_server::open_null;
use crate::spawn::{MonitorBinary, Reaper, SpawnError};

/// Time limit for a killed process to end.
const DEATH: Timespec = Timespec { tv_sec: 5, tv_nsec: 0 };
/// Time limit for systemd to read a request that it has not answered. A systemd that is stuck for longer is
/// ignored.
const LATE: Duration = Duration::from_secs(600);

#[derive(Debug)]
pub(crate) struct ScopeHolder {
    pub pid: i32,
    /// systemd may still read a request with [`Self::pid`], and would then move the process with this number
    /// into the scope: the number is not released for a while.
    pub is_requested: bool,
    /// A child that is not reaped as long as its number is needed. None when it was reaped.
    pidfd: Option<OwnedFd>,
    /// The holder reads from the other end until this one is closed.
    _open: OwnedFd,
}

impl ScopeHolder {
    /// Must be called within a tokio runtime.
    ///
    /// # Errors
    /// [`SpawnError::Holder`], [`SpawnError::Run`].
    pub(crate) fn start(binary: &MonitorBinary, pod: &PodId) -> Result<Self, SpawnError> {
        let failed = |errno: Errno| SpawnError::Holder { pod: pod.clone(), error: errno.into() };
        let (stdin, open) = pipe_with(PipeFlags::CLOEXEC).map_err(failed)?;
        let null = open_null().map_err(failed)?;
        let args = [CString::from(SCOPE_HOLDER), CString::new(pod.as_str()).unwrap_or_default()];
        let spawned = binary.spawn(pod, &args, [stdin.as_fd(), null.as_fd(), null.as_fd()], None)?;
        Ok(Self::of(spawned, open))
    }

    /// A process that ends when `open` is closed.
    pub(super) fn of(spawned: Spawned, open: OwnedFd) -> Self {
        Self { pid: spawned.pid, is_requested: false, pidfd: Some(spawned.pidfd), _open: open }
    }

    /// Whether it has ended, for example because another program killed it.
    pub(super) fn has_ended(&self) -> bool {
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        self.pidfd.as_ref().is_none_or(|pidfd| is_ended(pidfd, at_once).unwrap_or(false))
    }

    /// Ends it. Blocks until it has left the scope, which can then enable controllers for cgroups below.
    ///
    /// # Errors
    /// It ended before: systemd may have found the scope empty just before the monitor was in it, and given it
    /// up. Or it does not end.
    pub(crate) fn end(self) -> io::Result<()> {
        let Some(pidfd) = self.pidfd.as_ref().filter(|_| !self.has_ended()) else {
            return Err(io::Error::other(format!(
                "process {}, which held the pod's scope, has ended before its time: another program may have killed it",
                self.pid
            )));
        };
        kill(pidfd)?;
        if is_ended(pidfd, DEATH)? {
            return Ok(());
        }
        Err(io::Error::other(format!(
            "process {}, which held the pod's scope, was killed and has not ended",
            self.pid
        )))
    }
}

fn kill(pidfd: &OwnedFd) -> io::Result<()> {
    match pidfd_send_signal(pidfd, Signal::KILL) {
        Ok(()) | Err(Errno::SRCH) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

fn is_ended(pidfd: &OwnedFd, within: Timespec) -> io::Result<bool> {
    Ok(poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&within))? > 0)
}

impl Drop for ScopeHolder {
    fn drop(&mut self) {
        let Some(pidfd) = self.pidfd.take() else { return };
        let _ = kill(&pidfd);
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) if self.is_requested => {
                let late = async move {
                    tokio::time::sleep(LATE).await;
                    wait(&pidfd);
                };
                drop(runtime.spawn(late));
            }
            Ok(_) => drop(Reaper::new(pidfd)),
            // This server is ending, and leaves it to the host's init.
            Err(_) => {}
        }
    }
}

/// Reaps it, which releases its number.
fn wait(pidfd: &OwnedFd) {
    let _ = waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED);
}
