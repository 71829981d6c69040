//! Starts a pod's monitor: the only process that this crate starts, except for CNI plugins.
//!
//! The binary is a sealed memfd, one for all monitors of a server: its pages are shared, the file can be
//! replaced on disk while pods live, and a container that reached it could not write it.
//!
//! Monitors are copies of a fork server, which runs the program already; without one, the program is run for
//! each monitor.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crisp_executor::cgroup::JoinFds;
use crisp_executor::ids::PodId;
use crisp_executor::{Program, ProgramError, ProgramFile, SpawnOptions, Spawned};
use crisp_monitor::fork_server::{ForkError, ForkRequest, Forked};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{CWD, MemfdFlags, Mode, OFlags, SealFlags, fcntl_add_seals, memfd_create, openat};
use rustix::io::Errno;
use rustix::process::{Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::fork_server::{ForkServer, Pending, open_null};
use crate::link::connect::listen;
use crate::ops::monitor_process;

/// Name of the socket in the pod's folder.
pub const SOCKET: &str = "monitor.sock";
/// Name of the file in the pod's folder for errors of the monitor.
pub const LOG: &str = "monitor.log";

/// The `crisp-pod` program, which can be run any number of times.
#[derive(Debug, Clone)]
pub struct MonitorBinary(Arc<Binary>);

#[derive(Debug)]
struct Binary {
    memory: OwnedFd,
    fork_server: ForkServer,
}

/// The reason why a monitor was not started.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    #[error("keep the monitor's program in memory: {}", std::io::Error::from(*errno))]
    Binary { errno: Errno },
    #[error(
        "keep the monitor's program in memory: this host lets no program run from there: set the sysctl \
         vm.memfd_noexec to 0 or 1"
    )]
    NoExec,
    #[error("listen on {}: {}", path.display(), std::io::Error::from(*errno))]
    Listen { path: PathBuf, errno: Errno },
    #[error("open {}: {}", path.display(), std::io::Error::from(*errno))]
    Log { path: PathBuf, errno: Errno },
    #[error("run the monitor of pod {pod}: {error}")]
    Run { pod: PodId, error: ProgramError },
    #[error("fork the monitor of pod {pod}: {error}")]
    Fork { pod: PodId, error: ForkError },
    #[error("wait for the monitor of pod {pod}: {error}")]
    Reap { pod: PodId, error: std::io::Error },
    #[error("start the process that holds the scope of pod {pod}: {error}")]
    Holder { pod: PodId, error: std::io::Error },
}

impl MonitorBinary {
    /// Copies the program into memory and seals it there.
    ///
    /// # Errors
    /// [`SpawnError::Binary`].
    pub fn new(bytes: &[u8]) -> Result<Self, SpawnError> {
        let sealable = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let memory = filled_memfd(c"crisp-pod", sealable | MemfdFlags::EXEC, bytes)
            // Linux before 6.3 does not know the flag, and makes every memfd executable.
            .or_else(|errno| match errno {
                Errno::INVAL => filled_memfd(c"crisp-pod", sealable, bytes),
                errno => Err(errno),
            })
            .map_err(|errno| match errno {
                Errno::ACCESS => SpawnError::NoExec,
                errno => SpawnError::Binary { errno },
            })?;
        seal(&memory).map_err(|errno| SpawnError::Binary { errno })?;
        Ok(Self(Arc::new(Binary { memory, fork_server: ForkServer::default() })))
    }

    /// Runs it for `pod`.
    pub(crate) fn spawn(
        &self,
        pod: &PodId,
        args: &[CString],
        stdio: [BorrowedFd<'_>; 3],
        cgroup: Option<BorrowedFd<'_>>,
    ) -> Result<Spawned, SpawnError> {
        let (file, options) = (ProgramFile::Open(self.0.memory.as_fd()), SpawnOptions::default());
        let program = Program { file, args, env: &[], stdio, cgroup, options };
        program.spawn().map_err(|error| SpawnError::Run { pod: pod.clone(), error })
    }
}

/// How often sealing is tried when the kernel still refers to its pages.
const SEAL_TRIES: u32 = 100;
const SEAL_PAUSE: Duration = Duration::from_millis(20);

/// Seals `memory` permanently.
///
/// The kernel refuses (EBUSY) while a page has an unexpected reference: on a busy host, compaction or a batch
/// of another CPU has one for a moment.
#[expect(clippy::disallowed_methods, reason = "the server is starting: nothing else runs yet")]
fn seal(memory: &OwnedFd) -> Result<(), Errno> {
    let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    for _ in 1..SEAL_TRIES {
        match fcntl_add_seals(memory, seals) {
            Err(Errno::BUSY) => std::thread::sleep(SEAL_PAUSE),
            result => return result,
        }
    }
    fcntl_add_seals(memory, seals)
}

/// A monitor that is being started, see [`begin`]. When dropped, it is not started, or ended.
#[derive(Debug)]
pub struct Spawning<'a> {
    binary: &'a MonitorBinary,
    pod: PodId,
    network: bool,
    listener: OwnedFd,
    log: File,
    begun: Result<Option<Pending<'a>>, ForkError>,
}

/// How many fork servers are tried for one monitor. After that the program is run.
const TRIES: usize = 2;

/// Begins to start the monitor of `pod`, listening on [`SOCKET`] in `folder`. The fork server makes it while the
/// caller does other work, until [`Spawning::finish`]. Blocks, as `finish` does.
///
/// It is started in the v2 cgroup of `cgroup`: moving there later costs 8-15 ms. `network`: it will make a
/// network namespace that is owned by the host's user namespace.
///
/// The socket listens before the process runs: a client may connect at once. If the answer of the fork server is
/// lost when this is dropped, a monitor may be left: then the caller must kill it.
///
/// # Errors
/// [`SpawnError`]; nothing runs then, but the socket's file may exist.
pub fn begin<'a>(
    binary: &'a MonitorBinary,
    pod: &PodId,
    folder: &Path,
    cgroup: &JoinFds,
    network: bool,
) -> Result<Spawning<'a>, SpawnError> {
    let socket = folder.join(SOCKET);
    let listener = listen(&socket).map_err(|errno| SpawnError::Listen { path: socket, errno })?;
    let log = open_log(folder)?;
    let mut spawning = Spawning { binary, pod: pod.clone(), network, listener, log, begun: Ok(None) };
    spawning.request(cgroup);
    Ok(spawning)
}

impl<'a> Spawning<'a> {
    /// Finishes the start and returns the process id of the monitor. The v2 cgroup is removed from `cgroup` if
    /// the monitor was started in it. The monitor joins the other cgroups in `cgroup`.
    ///
    /// The monitor has its own session; it is reaped here while the server lives, once the guard is dropped, and
    /// by the host's init after that. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// [`SpawnError`]; nothing runs then.
    pub fn finish(mut self, cgroup: &mut JoinFds) -> Result<(i32, Reaper), SpawnError> {
        let monitor = match self.forked(cgroup)? {
            Some(forked) => forked,
            None => run(self.binary, &self.fork_request(cgroup))?,
        };
        if monitor.in_cgroup {
            cgroup.v2 = None;
        }
        let reaper =
            Reaper::new(monitor.pidfd).map_err(|error| SpawnError::Reap { pod: self.pod.clone(), error })?;
        Ok((monitor.pid, reaper))
    }

    /// Receives the copy that the fork server made; None without a fork server. A failed request may still have
    /// made one: that is killed first.
    fn forked(&mut self, cgroup: &JoinFds) -> Result<Option<Forked>, SpawnError> {
        for tried in 1..=TRIES {
            let begun = std::mem::replace(&mut self.begun, Ok(None));
            match begun.and_then(|pending| pending.map(Pending::finish).transpose()) {
                Ok(forked) => return Ok(forked),
                Err(error @ ForkError::Clone { .. }) => {
                    return Err(SpawnError::Fork { pod: self.pod.clone(), error });
                }
                Err(_) => monitor_process::kill(&self.pod)
                    .map_err(|error| SpawnError::Reap { pod: self.pod.clone(), error })?,
            }
            if tried < TRIES {
                self.request(cgroup);
            }
        }
        Ok(None)
    }

    fn request(&mut self, cgroup: &JoinFds) {
        let binary: &'a Binary = &self.binary.0;
        let begun = binary.fork_server.begin(binary.memory.as_fd(), &self.fork_request(cgroup));
        self.begun = begun;
    }

    fn fork_request<'r>(&'r self, cgroup: &'r JoinFds) -> ForkRequest<BorrowedFd<'r>> {
        let (listener, log) = (self.listener.as_fd(), self.log.as_fd());
        let cgroup = cgroup.v2.as_ref().map(AsFd::as_fd);
        ForkRequest { pod: self.pod.clone(), network: self.network, listener, log, cgroup }
    }
}

/// Runs the program.
fn run(binary: &MonitorBinary, request: &ForkRequest<BorrowedFd<'_>>) -> Result<Forked, SpawnError> {
    let path = Path::new("/dev/null");
    let null = open_null().map_err(|errno| SpawnError::Log { path: path.to_owned(), errno })?;
    // An id is hexadecimal digits, so the text holds no NUL byte.
    let args = [c"crisp-pod".to_owned(), CString::new(request.pod.as_str()).unwrap_or_default()];
    let stdio = [request.listener, null.as_fd(), request.log];
    let spawned = binary.spawn(&request.pod, &args, stdio, request.cgroup)?;
    Ok(Forked { pid: spawned.pid, pidfd: spawned.pidfd, in_cgroup: spawned.in_cgroup })
}

/// Once dropped, waits for the process's end in the background, so that it leaves no zombie. Before that, no
/// other thread wakes up for it.
#[derive(Debug)]
pub struct Reaper(Option<AsyncFd<OwnedFd>>);

impl Reaper {
    /// # Errors
    /// Waiting is not possible; then the process is killed.
    pub(crate) fn new(pidfd: OwnedFd) -> std::io::Result<Self> {
        // Deprecated for descriptors that change; an `OwnedFd` always is one process.
        #[allow(deprecated)]
        match AsyncFd::try_with_interest(pidfd, Interest::READABLE) {
            Ok(pidfd) => Ok(Self(Some(pidfd))),
            Err(error) => {
                let (pidfd, error) = error.into_parts();
                kill(&pidfd);
                Err(error)
            }
        }
    }
}

impl Drop for Reaper {
    fn drop(&mut self) {
        // A server that ends leaves the process to the host's init.
        let (Some(pidfd), Ok(runtime)) = (self.0.take(), tokio::runtime::Handle::try_current()) else {
            return;
        };
        runtime.spawn(async move {
            if pidfd.readable().await.is_ok() {
                let _ = waitid(WaitId::PidFd(pidfd.get_ref().as_fd()), WaitIdOptions::EXITED);
            }
        });
    }
}

fn kill(pidfd: &OwnedFd) {
    let _ = pidfd_send_signal(pidfd, Signal::KILL);
    let _ = waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED);
}

fn filled_memfd(name: &CStr, flags: MemfdFlags, bytes: &[u8]) -> Result<OwnedFd, Errno> {
    let file = memfd_create(name, flags)?;
    let mut left = bytes;
    while !left.is_empty() {
        match rustix::io::write(&file, left) {
            Ok(n) => left = &left[n..],
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(file)
}

fn open_log(folder: &Path) -> Result<File, SpawnError> {
    let path = folder.join(LOG);
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::APPEND | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match openat(CWD, &path, flags, Mode::from_raw_mode(0o600)) {
        Ok(file) => Ok(File::from(file)),
        Err(errno) => Err(SpawnError::Log { path, errno }),
    }
}

#[cfg(test)]
mod tests {
    use rustix::pipe::SpliceFlags;

    use super::*;

    #[test]
    fn the_program_in_memory_cannot_be_written() {
        let binary = MonitorBinary::new(b"#!/bin/sh\n").unwrap();
        assert_eq!(rustix::io::write(&binary.0.memory, b"x"), Err(Errno::PERM));
    }

    #[test]
    fn memory_that_something_still_refers_to_is_sealed_when_that_is_over() {
        let memory =
            filled_memfd(c"busy", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING, &[7; 4096]).unwrap();
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        rustix::pipe::splice(&memory, Some(&mut 0), &writer, None, 4096, SpliceFlags::empty()).unwrap();
        assert_eq!(fcntl_add_seals(&memory, SealFlags::WRITE), Err(Errno::BUSY));

        let ends = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(100));
            drop((reader, writer));
        });
        seal(&memory).unwrap();
        ends.join().unwrap();
        assert_eq!(rustix::io::write(&memory, b"x"), Err(Errno::PERM));
    }
}
