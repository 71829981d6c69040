//! A process among others that may inspect it (CAP_SYS_PTRACE): a command in a container, or the first process of a
//! container in the PID namespace of others.
//!
//! ```text
//!  monitor --clone3--> helper, in the PID namespace of the monitor: no container can see it
//!     ^                  | closes the descriptors of the monitor, joins cgroups and namespaces or makes the root,
//!     |                  | becomes the user, closes what that took
//!     +-- pid -----------+ clone3(PARENT) in the other PID namespace --> process: seen from its first moment, with
//!                          ends                              the rights and descriptors of the program that it becomes
//! ```
//!
//! A process that is cloned straight into the other PID namespace can be seized before its first instruction, with all
//! that it has from the monitor: rights, and descriptors such as the host's /proc. Two things are open. A process that
//! loads a seccomp filter without no_new_privs keeps CAP_SYS_ADMIN until it has loaded it, as with runc. And it has a
//! copy of the monitor's memory.
//!
//! The pid is passed in memory that the process does not share: it could use a socket before the helper does. The
//! kernel stores it before the process runs, so that none is lost when the helper is killed.
//!
//! The helper may take long, or for ever: it is in the container's cgroup, which may be frozen, and opens files of the
//! container. So the monitor does not wait for it: it reaps the helper as any child, and finds the [`Helper`]'s number.

use std::convert::Infallible;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::{Errno, retry_on_intr};
use rustix::process::{
    DumpableBehavior, Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, kill_process, pidfd_open,
    pidfd_send_signal, set_dumpable_behavior, setsid, waitid,
};
use rustix::thread::{ThreadNameSpaceType, move_into_thread_name_spaces};

use super::child::{self, Entered};
use super::error::{At, Stage, StageError};
use super::relay::Relay;
use super::report::Reporter;
use super::setup::Setup;
use super::spawn::{self, CloneOptions, InCgroup, PidFrom};
use super::{PodContext, Starting, Stdio, handover};
use crate::plan::Plan;
use crate::sys::{self, Cloned, SharedNumber};

const KILLED: &str = "process: its helper was killed before it could make it";

/// A process that makes another one.
#[derive(Debug)]
pub struct Helper(Made);

#[derive(Debug)]
enum Made {
    /// The child of the caller with this number.
    Child(SharedNumber),
    /// A child of another process, which passes it on.
    Elsewhere(Relay),
}

impl Helper {
    pub(super) fn elsewhere(relay: Relay) -> Self {
        Self(Made::Elsewhere(relay))
    }

    /// A helper that has made the process with this number, for tests of callers.
    ///
    /// # Errors
    /// No memory.
    #[doc(hidden)]
    pub fn that_made(pid: i32) -> Result<Self, Errno> {
        let number = SharedNumber::new()?;
        number.store(pid);
        Ok(Self(Made::Child(number)))
    }

    /// The process, once there is one. It is a child of the caller: its number is its own until it is reaped. If there
    /// is none when the helper has been reaped, there will be none.
    #[must_use]
    pub fn child(&self) -> Option<i32> {
        match &self.0 {
            Made::Child(number) => Some(number.load()).filter(|pid| *pid > 0),
            Made::Elsewhere(_) => None,
        }
    }
}

impl Starting {
    /// Waits until the process itself has been made, for callers that have nothing else to do. If the report has
    /// [`Progress::Prepared`](super::Progress::Prepared) that comes before.
    ///
    /// # Errors
    /// The stage that failed in the helper.
    pub fn wait_for_process(self) -> Result<Self, StageError> {
        let Self { pid, pidfd, report, helper } = self;
        let (pid, pidfd) = match helper {
            None => (pid, pidfd),
            Some(helper) => process_of(helper, &pidfd).map_err(|error| handover::failure(&report, error))?,
        };
        Ok(Self { pid, pidfd, report, helper: None })
    }
}

/// Waits for the process that the helper behind `pidfd` makes.
pub(super) fn process_of(helper: Helper, pidfd: &OwnedFd) -> Result<(i32, OwnedFd), StageError> {
    if let Made::Elsewhere(relay) = helper.0 {
        return relay.receive_last();
    }
    retry_on_intr(|| poll(&mut [PollFd::new(pidfd, PollFlags::IN)], None))
        .at(Stage::Clone, "wait for a helper")?;
    // Reaped, as the process that adopts it later does not know of it. If the caller ignores SIGCHLD, the kernel did.
    let _ = waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED | WaitIdOptions::NOHANG);
    let killed = || StageError::explained(Stage::Clone, Errno::CHILD, KILLED);
    let pid = helper.child().ok_or_else(killed)?;
    Ok((pid, pidfd_of_child(pid)?))
}

/// The pidfd of a child that has not been reaped; it is killed if there is none.
///
/// # Errors
/// [`Stage::Clone`], also when it is no child of the caller.
pub fn pidfd_of_child(pid: i32) -> Result<OwnedFd, StageError> {
    let child = Pid::from_raw(pid).ok_or(Errno::SRCH).at(Stage::Clone, "name a process")?;
    let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    retry_on_intr(|| waitid(WaitId::Pid(child), look)).at(Stage::Clone, "find the process among our own")?;
    pidfd_open(child, PidfdFlags::empty())
        .inspect_err(|_| {
            let _ = kill_process(child, Signal::KILL);
        })
        .at(Stage::Clone, "name a process")
}

/// Starts the first process of a container in the PID namespace of `other`.
pub(crate) fn start(
    setup: &Setup<'_>,
    plan: &Plan,
    other: BorrowedFd<'_>,
    pod: &PodContext<'_>,
    stdio: Stdio,
    cgroup: Option<BorrowedFd<'_>>,
) -> Result<Starting, StageError> {
    let options = CloneOptions { pid: PidFrom::Own, cgroup, mount_namespace: true };
    by_helper(setup, other, &options, |reporter, joined| {
        child::enter_beside(setup, plan, other, pod, stdio, reporter, joined)
    })
}

/// Starts a further process in the container whose first process is `init`.
pub(crate) fn exec(
    setup: &Setup<'_>,
    init: BorrowedFd<'_>,
    pod: &PodContext<'_>,
    stdio: Stdio,
    cgroup: Option<BorrowedFd<'_>>,
) -> Result<Starting, StageError> {
    let options = CloneOptions { pid: PidFrom::Own, cgroup, mount_namespace: false };
    by_helper(setup, init, &options, |reporter, joined| {
        child::enter_container(setup, init, pod, stdio, reporter, joined)
    })
}

/// `enter` has the part that needs rights and descriptors.
fn by_helper<'a>(
    setup: &Setup<'_>,
    other: BorrowedFd<'_>,
    options: &CloneOptions<'_>,
    enter: impl FnOnce(&Reporter, InCgroup) -> Result<Entered<'a>, StageError>,
) -> Result<Starting, StageError> {
    let number = SharedNumber::new().at(Stage::Clone, "share memory with a helper")?;
    let starting = spawn::spawn(options, |reporter, joined| {
        // For its children.
        move_into_thread_name_spaces(other, ThreadNameSpaceType::PROCESS_ID).map_err(spawn::not_joined)?;
        let entered = enter(reporter, joined)?;
        make_process(setup, entered, &number, reporter)
    })?;
    // Not for helpers that are made while this one is under way: their processes can be traced.
    number
        .keep_from_copies()
        .inspect_err(|_| {
            let _ = pidfd_send_signal(&starting.pidfd, Signal::KILL);
        })
        .at(Stage::Clone, "keep memory from other helpers")?;
    Ok(Starting { helper: Some(Helper(Made::Child(number))), ..starting })
}

/// In the helper: becomes the user, makes the process, and ends.
fn make_process(
    setup: &Setup<'_>,
    entered: Entered<'_>,
    number: &SharedNumber,
    reporter: &Reporter,
) -> Result<Infallible, StageError> {
    let ready = child::become_user(setup, entered, reporter)?;
    // The change of user has set it to what the host has for such programs (fs.suid_dumpable).
    set_dumpable_behavior(DumpableBehavior::NotDumpable).at(Stage::Clone, "hide from other processes")?;
    let needed: Vec<_> = ready.terminal().into_iter().chain(setup.gate).chain([reporter.as_fd()]).collect();
    sys::close_others(3 + setup.preserved, &needed).at(Stage::CloseDescriptors, "of the helper")?;
    number.keep_from_copies().at(Stage::Clone, "keep memory from a process")?;
    match sys::clone_sibling(number).map_err(refused)? {
        Cloned::Child => {
            setsid().at(Stage::Clone, "make a session")?;
            child::launch(setup, ready, reporter)
        }
        Cloned::Parent { .. } => sys::exit(0),
    }
}

fn refused(errno: Errno) -> StageError {
    let why = match errno {
        Errno::AGAIN => {
            "process: a limit of processes is reached: of its cgroup, its user or this host; among containers with \
             CAP_SYS_PTRACE it takes room for two"
        }
        Errno::NOMEM => "process: the container is ending, or this host has no memory left",
        errno => return StageError::new(Stage::Clone, errno, "process"),
    };
    StageError::explained(Stage::Clone, errno, why)
}
