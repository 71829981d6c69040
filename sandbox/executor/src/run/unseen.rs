//! A command in a container whose processes may inspect others (CAP_SYS_PTRACE).
//!
//! ```text
//!  monitor --clone3--> helper, in the PID namespace of the monitor: the container cannot see it
//!     ^                  | closes the descriptors of the monitor, joins cgroups and namespaces, becomes the user
//!     +-- pid -----------+ setns(pid), clone3(PARENT) --> process: seen from its first moment, with the rights and
//!                          ends                           descriptors of the command that it becomes
//! ```
//!
//! A process that is cloned straight into the container's PID namespace can be seized before its first
//! instruction, with all that it has from the monitor: rights, and descriptors such as the host's /proc. Two
//! things are open. A process that loads a seccomp filter without no_new_privs keeps CAP_SYS_ADMIN until it has
//! loaded it. And a container that starts in the PID namespace of others is still cloned straight into it.
//!
//! The pid is passed in memory that the process does not share: it could use a socket before the helper does.

use std::convert::Infallible;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, retry_on_intr};
use rustix::process::{
    DumpableBehavior, Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal, set_dumpable_behavior, setsid,
};
use rustix::thread::{ThreadNameSpaceType, move_into_thread_name_spaces};

use super::child::{self, Entered};
use super::error::{At, Stage, StageError};
use super::handover;
use super::report::Reporter;
use super::setup::Setup;
use super::spawn::{self, CloneOptions, PidFrom};
use super::{PodContext, Starting, Stdio};
use crate::sys::{self, Cloned, SharedNumber};

/// Seconds for the helper, which needs less than a thousandth. It is in the container's cgroup, and opens files of
/// the container: both may keep it waiting, and the monitor with it.
const LIMIT: i64 = 2;
const KILLED: &str = "process: its helper has been killed, or did not come through the container's cgroup, working \
                      directory and terminal in time";

/// Starts a further process in the container whose first process is `init`.
pub(crate) fn exec(
    setup: &Setup<'_>,
    init: BorrowedFd<'_>,
    pod: &PodContext<'_>,
    stdio: Stdio,
    cgroup: Option<BorrowedFd<'_>>,
) -> Result<Starting, StageError> {
    let number = SharedNumber::new().at(Stage::Clone, "share memory with a helper")?;
    let options = CloneOptions { pid: PidFrom::Own, cgroup, mount_namespace: false };
    let helper = spawn::spawn(&options, |reporter, joined| {
        let entered = child::enter_container(setup, init, pod, stdio, reporter, joined)?;
        continue_in(setup, init, entered, &number, reporter)
    })?;
    let limit = Timespec { tv_sec: LIMIT, tv_nsec: 0 };
    let ended = retry_on_intr(|| poll(&mut [PollFd::new(&helper.pidfd, PollFlags::IN)], Some(&limit)));
    if ended.at(Stage::Clone, "wait for a helper")? == 0 {
        let _ = pidfd_send_signal(&helper.pidfd, Signal::KILL);
        // It may have made the process at the last moment.
        retry_on_intr(|| poll(&mut [PollFd::new(&helper.pidfd, PollFlags::IN)], Some(&limit)))
            .at(Stage::Clone, "wait for a helper")?;
    }
    let pid = number.load();
    let Some(process) = Pid::from_raw(pid).filter(|_| pid > 0) else {
        return Err(handover::failure(&helper.report, Stage::Clone, KILLED));
    };
    Ok(Starting { pid, pidfd: pidfd(process)?, report: helper.report })
}

/// Our own child, whose number stays its own until it is reaped.
fn pidfd(process: Pid) -> Result<OwnedFd, StageError> {
    pidfd_open(process, PidfdFlags::empty())
        .inspect_err(|_| {
            let _ = rustix::process::kill_process(process, Signal::KILL);
        })
        .at(Stage::Clone, "name a process")
}

/// In the helper: becomes the user, makes the process, and ends.
fn continue_in(
    setup: &Setup<'_>,
    init: BorrowedFd<'_>,
    entered: Entered<'_>,
    number: &SharedNumber,
    reporter: &Reporter,
) -> Result<Infallible, StageError> {
    let of_init = move_into_thread_name_spaces(init, ThreadNameSpaceType::PROCESS_ID);
    of_init.at(Stage::JoinPidNamespace, "of the container, is it still running")?;
    let remaining = child::become_user(setup, &entered, reporter)?;
    // The change of user has set it to what the host has for such programs (fs.suid_dumpable).
    set_dumpable_behavior(DumpableBehavior::NotDumpable).at(Stage::Clone, "hide from other processes")?;
    number.keep_from_copies().at(Stage::Clone, "keep memory from a process")?;
    match sys::clone3(libc::CLONE_PARENT as u64, None).map_err(refused)? {
        Cloned::Child => {
            setsid().at(Stage::Clone, "make a session")?;
            child::launch(setup, entered, remaining, reporter)
        }
        Cloned::Parent { pid, .. } => {
            number.store(pid);
            sys::exit(0)
        }
    }
}

fn refused(errno: Errno) -> StageError {
    let why = match errno {
        Errno::AGAIN => "process: a limit of processes is reached: of its cgroup, its user or this host",
        Errno::NOMEM => "process: the container is ending, or this host has no memory left",
        errno => return StageError::new(Stage::Clone, errno, "process"),
    };
    StageError::explained(Stage::Clone, errno, why)
}
