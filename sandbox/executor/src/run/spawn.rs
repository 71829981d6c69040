//! The monitor's half of a start: which PID namespace, which cgroup, one clone.

use std::convert::Infallible;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::process::{PidfdFlags, Signal, getpid, pidfd_open, pidfd_send_signal};
use rustix::thread::{ThreadNameSpaceType, move_into_thread_name_spaces};

use super::Starting;
use super::error::{At, Stage, StageError};
use super::report::{self, Reporter};
use crate::sys::{self, Cloned};

/// Where a process's PID comes from.
#[derive(Clone, Copy)]
pub(crate) enum PidFrom<'a> {
    New,
    Own,
    /// The namespace of the process that this pidfd names.
    Of(BorrowedFd<'a>),
}

/// How a child is cloned.
pub(crate) struct CloneOptions<'a> {
    pub pid: PidFrom<'a>,
    /// An open v2 cgroup to be born in.
    pub cgroup: Option<BorrowedFd<'a>>,
    pub mount_namespace: bool,
}

/// Whether the child still has to move into its v2 cgroup itself.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum InCgroup {
    Yes,
    No,
}

/// Clones a child that runs `child`, whose failure is reported.
pub(crate) fn spawn(
    options: &CloneOptions<'_>,
    child: impl FnOnce(&Reporter, InCgroup) -> Result<Infallible, StageError>,
) -> Result<Starting, StageError> {
    let (report, reporter) = report::pair().at(Stage::Clone, "make a report socket")?;
    // Known to the child then.
    sys::ignored_signals();
    let home = enter_pid_namespace(options.pid)?;
    let cloned = clone(options);
    match cloned {
        Ok((Cloned::Child, joined)) => run_child(&reporter, joined, child),
        Ok((Cloned::Parent { pid, pidfd }, _)) => {
            return_to_own(home.as_ref()).inspect_err(|_| {
                let _ = pidfd_send_signal(&pidfd, Signal::KILL);
            })?;
            Ok(Starting { pid, pidfd, report, helper: None })
        }
        Err(error) => {
            return_to_own(home.as_ref())?;
            Err(error)
        }
    }
}

/// In a copy of a process: ends it at the end of its part, also when that panics, which must not unwind into the
/// code of which this is a copy.
pub(crate) struct Stop;

impl Drop for Stop {
    fn drop(&mut self) {
        sys::exit(127);
    }
}

/// The child's life up to its exec.
fn run_child(
    reporter: &Reporter,
    joined: InCgroup,
    child: impl FnOnce(&Reporter, InCgroup) -> Result<Infallible, StageError>,
) -> ! {
    let _stop = Stop;
    match child(reporter, joined) {
        Ok(never) => match never {},
        Err(error) => {
            reporter.failed(error);
            sys::exit(127)
        }
    }
}

fn clone(options: &CloneOptions<'_>) -> Result<(Cloned, InCgroup), StageError> {
    let mut namespaces = 0;
    if options.mount_namespace {
        namespaces |= libc::CLONE_NEWNS as u64;
    }
    if matches!(options.pid, PidFrom::New) {
        namespaces |= libc::CLONE_NEWPID as u64;
    }
    clone_into(namespaces, options.cgroup).map_err(|errno| match (errno, options.pid) {
        // The kernel's answer for a PID namespace whose first process has ended meanwhile, too.
        (Errno::NOMEM, PidFrom::Of(_)) => {
            let why = "process: the container is ending, or this host has no memory left";
            StageError::explained(Stage::Clone, errno, why)
        }
        (errno, _) => refused(errno),
    })
}

/// Clones into the cgroup, or where that is not to be had beside it.
pub(crate) fn clone_into(flags: u64, cgroup: Option<BorrowedFd<'_>>) -> Result<(Cloned, InCgroup), Errno> {
    if cgroup.is_some() {
        match sys::clone3(flags, cgroup) {
            Ok(cloned) => return Ok((cloned, InCgroup::Yes)),
            // An older kernel, or a rule that moving in afterwards may be exempt from.
            Err(
                Errno::NOSYS | Errno::INVAL | Errno::TOOBIG | Errno::OPNOTSUPP | Errno::ACCESS | Errno::BUSY,
            ) => {}
            Err(errno) => return Err(errno),
        }
    }
    let joined = if cgroup.is_some() { InCgroup::No } else { InCgroup::Yes };
    sys::clone3(flags, None).map(|cloned| (cloned, joined))
}

fn refused(errno: Errno) -> StageError {
    let why = match errno {
        Errno::AGAIN => "process: the pids limit of its cgroup, or of this host, is reached",
        Errno::NODEV | Errno::NOENT => "process: its cgroup has been removed",
        errno => return StageError::new(Stage::Clone, errno, "process"),
    };
    StageError::explained(Stage::Clone, errno, why)
}

/// Makes children start in the PID namespace `pid`; returns this process's own, to go back to.
fn enter_pid_namespace(pid: PidFrom<'_>) -> Result<Option<OwnedFd>, StageError> {
    let PidFrom::Of(process) = pid else { return Ok(None) };
    let at = Stage::JoinPidNamespace;
    let home = pidfd_open(getpid(), PidfdFlags::empty()).at(at, "name our own")?;
    move_into_thread_name_spaces(process, ThreadNameSpaceType::PROCESS_ID).map_err(not_joined)?;
    Ok(Some(home))
}

/// Why the PID namespace of a process could not be entered.
pub(crate) fn not_joined(errno: Errno) -> StageError {
    let at = Stage::JoinPidNamespace;
    match errno {
        Errno::SRCH => StageError::explained(at, errno, "of a process that has ended: nothing runs in it"),
        errno => StageError::new(at, errno, "of another process"),
    }
}

fn return_to_own(home: Option<&OwnedFd>) -> Result<(), StageError> {
    let Some(home) = home else { return Ok(()) };
    move_into_thread_name_spaces(std::os::fd::AsFd::as_fd(home), ThreadNameSpaceType::PROCESS_ID)
        .at(Stage::JoinPidNamespace, "return to our own")
}
