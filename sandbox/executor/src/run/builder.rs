//! A container in its pod's user namespace.
//!
//! ```text
//!  monitor --clone3(NEWNS, INTO_CGROUP)--> builder, with the host's rights
//!     ^                                       | cgroups, owner of the streams, OOM score, hard limits
//!     |                                       | /dev, devices and sources of binds: attached in its own
//!     |                                       | mount namespace, see `prepared`
//!     +---- pid, pidfd -----------------------+ setns(user), clone3(NEWPID, NEWNS, NEWCGROUP, PARENT)
//!                                                              v
//!                                      child, with rights over the user namespace alone:
//!                                      as any other child from there on
//! ```
//!
//! So the container's namespaces belong to its user namespace, and the mounts that the builder has attached
//! have locked flags in the child: not even a container with CAP_SYS_ADMIN can make a read-only volume
//! writable.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::process::umask;
use rustix::thread::{ThreadNameSpaceType, move_into_thread_name_spaces};

use super::child;
use super::error::{At, Stage, StageError};
use super::handover::{self, Sender};
use super::report::Reporter;
use super::setup::Setup;
use super::spawn::{self, CloneOptions, InCgroup, PidFrom};
use super::{Starting, Stdio, limits, prepared, procfs, streams};
use crate::plan::{Plan, Process};
use crate::user_namespace::UserNamespace;

/// The inputs of [`start`] in addition to those of every start.
pub(crate) struct Inside<'a> {
    pub user: &'a UserNamespace,
    pub pid: PidFrom<'a>,
    /// The host's /proc.
    pub proc: Option<BorrowedFd<'a>>,
}

/// Starts a container's first process in the pod's user namespace.
pub(crate) fn start(
    setup: &Setup<'_>,
    plan: &Plan,
    stdio: Stdio,
    inside: &Inside<'_>,
    cgroup: Option<BorrowedFd<'_>>,
) -> Result<Starting, StageError> {
    let options = CloneOptions { pid: PidFrom::Own, cgroup, mount_namespace: true };
    let (sender, receiver) = handover::pair()?;
    let builder = spawn::spawn(&options, |reporter, joined| {
        build(setup, plan, &stdio, inside, &sender, reporter, joined)?;
        child::start_inside(setup, plan, stdio, reporter)
    })?;
    drop(sender);
    let (pid, pidfd) = receiver.wait(&builder.report)?;
    Ok(Starting { pid, pidfd, report: builder.report, helper: None })
}

/// The work of the builder, and the start of the child, in which this returns.
fn build(
    setup: &Setup<'_>,
    plan: &Plan,
    stdio: &Stdio,
    inside: &Inside<'_>,
    sender: &Sender,
    reporter: &Reporter,
    joined: InCgroup,
) -> Result<(), StageError> {
    let of_pid = match inside.pid {
        PidFrom::Of(process) => Some(process),
        PidFrom::New | PidFrom::Own => None,
    };
    let needed = [sender.as_fd(), inside.user.as_fd()].into_iter().chain(inside.proc).chain(of_pid);
    setup.close_others(stdio, &needed.collect::<Vec<_>>(), reporter, Some(joined))?;
    crate::sys::accept_signals();
    umask(Mode::empty());
    streams::give_to(stdio, streams::owner(inside.user, setup.process.uid)?)?;
    setup.join_cgroups(reporter, joined)?;
    limits::raise(&setup.process.rlimits)?;
    oom_score(setup.process, inside.proc, reporter)?;
    prepared::attach_all(plan, setup.fds, inside.user)?;
    if let Some(process) = of_pid {
        move_into_thread_name_spaces(process, ThreadNameSpaceType::PROCESS_ID)
            .at(Stage::JoinPidNamespace, "of another process")?;
    }
    let mut namespaces = libc::CLONE_NEWNS as u64;
    if plan.cgroup_namespace {
        namespaces |= libc::CLONE_NEWCGROUP as u64;
    }
    if matches!(inside.pid, PidFrom::New) {
        namespaces |= libc::CLONE_NEWPID as u64;
    }
    handover::continue_inside(inside.user, namespaces, sender)
}

/// The file belongs to the host's root, whose rights the child no longer has; the score is inherited.
fn oom_score(process: &Process, proc: Option<BorrowedFd<'_>>, reporter: &Reporter) -> Result<(), StageError> {
    if process.oom_score_adj.is_none() {
        return Ok(());
    }
    let own = match proc {
        Some(_) => None,
        None => Some(procfs::open(None)?),
    };
    let proc = proc.or(own.as_ref().map(AsFd::as_fd)).ok_or(Errno::NOENT).at(Stage::Proc, "of the host")?;
    procfs::set_oom_score(proc, process, reporter)
}
