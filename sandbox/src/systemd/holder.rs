//! The first process of a scope: systemd makes none without. It does nothing, and ends when it is dropped or
//! when this server does, whatever the reason.

use std::ffi::CString;
use std::os::fd::AsFd;

use crisp_executor::id::PodId;
use crisp_monitor::SCOPE_HOLDER;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Signal, pidfd_send_signal};

use crate::fork_server::open_null;
use crate::spawn::{MonitorBinary, SpawnError, reap};

/// For a killed process to be gone.
const DEATH: Timespec = Timespec { tv_sec: 5, tv_nsec: 0 };

#[derive(Debug)]
pub(crate) struct ScopeHolder {
    pub pid: i32,
    pidfd: OwnedFd,
    /// The holder reads from the other end until that says that this one is closed.
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
        let pidfd = spawned.pidfd.try_clone().and_then(|pidfd| reap(spawned.pidfd).map(|()| pidfd));
        let pidfd = pidfd.map_err(|error| SpawnError::Holder { pod: pod.clone(), error })?;
        Ok(Self { pid: spawned.pid, pidfd, _open: open })
    }

    /// Ends it. Blocks until it has left the scope, which can then have controllers for cgroups below.
    ///
    /// # Errors
    /// It does not end.
    pub(crate) fn end(self) -> std::io::Result<()> {
        match pidfd_send_signal(&self.pidfd, Signal::KILL) {
            Ok(()) | Err(Errno::SRCH) => {}
            Err(errno) => return Err(errno.into()),
        }
        match poll(&mut [PollFd::new(&self.pidfd, PollFlags::IN)], Some(&DEATH))? {
            0 => Err(std::io::Error::other(format!(
                "process {}, which held the pod's scope, was killed and has not ended",
                self.pid
            ))),
            _ => Ok(()),
        }
    }
}
