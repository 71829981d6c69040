//! The first process of a pod's shared PID namespace: it reaps, and does nothing else.
//!
//! Containers of the pod can see it, so it has nothing that is worth taking: no descriptors, no
//! capabilities, no privileges to gain, a user of its own.

use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::process::{
    DumpableBehavior, Signal, set_dumpable_behavior, set_parent_process_death_signal, setsid,
};
use rustix::thread::{
    CapabilitySet, CapabilitySets, Gid, Uid, set_capabilities, set_name, set_no_new_privs, set_thread_groups,
    set_thread_res_gid, set_thread_res_uid,
};

use super::error::{At, Stage, StageError};
use super::report::{self, Progress};
use super::spawn::{self, CloneOptions, PidFrom, Stop};
use super::{handover, pod_root};
use crate::sys::{self, Cloned};
use crate::user_namespace::UserNamespace;

/// The same unprivileged user as in pause images, and a group of the same number.
const USER: u32 = 65_535;

/// The pod's init, a child of the caller. Everything in the namespace ends with it.
#[derive(Debug)]
pub struct PodInit {
    /// In the caller's PID namespace.
    pub pid: i32,
    /// For [`PodContext::init`](super::PodContext::init) and for ending it (SIGKILL).
    pub pidfd: OwnedFd,
}

/// Clones the pod's init into a new PID namespace, which belongs to `user` when that is given. It keeps no
/// descriptor and dies with its parent. The caller has one thread.
///
/// # Errors
/// [`Stage::Clone`], [`Stage::UserNamespace`].
pub fn start(user: Option<&UserNamespace>) -> Result<PodInit, StageError> {
    match user {
        None => make(|| {}),
        Some(user) => start_inside(user),
    }
}

/// The same without a user namespace, and with a /proc of the PID namespace in the root of the caller, which is that
/// of [`pod_root::enter`]: containers get copies of it, see [`PodContext::copies_proc`]. Only a process
/// that is alone in its namespace can make one safely, as others could seize it while it has the right to.
///
/// # Errors
/// [`Stage::Clone`], [`Stage::PodRoot`].
///
/// [`PodContext::copies_proc`]: super::PodContext::copies_proc
pub fn start_with_proc() -> Result<PodInit, StageError> {
    let (report, reporter) = report::pair().at(Stage::Clone, "make a report socket")?;
    let init = make(|| {
        if let Err(error) = pod_root::add_proc() {
            reporter.failed(error);
            sys::exit(1)
        }
    })?;
    drop(reporter);
    match report.wait().at(Stage::PodRoot, "wait for the pod's init")? {
        Progress::Failed(error) => Err(error),
        _ => Ok(init),
    }
}

/// `first` is what the process does with the rights of the caller.
fn make(first: impl FnOnce()) -> Result<PodInit, StageError> {
    match sys::clone3(libc::CLONE_NEWPID as u64, None).at(Stage::Clone, "the pod's init")? {
        Cloned::Parent { pid, pidfd } => Ok(PodInit { pid, pidfd }),
        Cloned::Child => {
            let _stop = Stop;
            first();
            live(USER)
        }
    }
}

fn start_inside(user: &UserNamespace) -> Result<PodInit, StageError> {
    let namespace = libc::CLONE_NEWPID as u64;
    let (sender, receiver) = handover::pair()?;
    let options = CloneOptions { pid: PidFrom::Own, cgroup: None, mount_namespace: false };
    let builder = spawn::spawn(&options, |_, _| {
        handover::continue_inside(user, namespace, &sender)?;
        // Where that user does not exist there is at least one other than root.
        let exists = |id| user.mappings.host_uid(id).is_some() && user.mappings.host_gid(id).is_some();
        live(if exists(USER) { USER } else { u32::from(exists(1)) })
    })?;
    drop(sender);
    let (pid, pidfd) = receiver.wait(&builder.report)?;
    Ok(PodInit { pid, pidfd })
}

fn live(user: u32) -> ! {
    if drop_privileges(user).is_err() {
        sys::exit(1);
    }
    sys::without_descriptors(sys::reap_forever)
}

fn drop_privileges(user: u32) -> Result<(), Errno> {
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    setsid()?;
    match sys::join_session_keyring(None) {
        // As for containers: without keys, or without keyctl, there is nothing to leave.
        Ok(_) | Err(Errno::NOSYS | Errno::PERM) => {}
        Err(errno) => return Err(errno),
    }
    sys::reset_signals();
    set_name(c"pod-init")?;
    set_no_new_privs(true)?;
    set_thread_groups(&[])?;
    let (user, group) = (Uid::from_raw(user), Gid::from_raw(user));
    set_thread_res_gid(group, group, group)?;
    set_thread_res_uid(user, user, user)?;
    let none = CapabilitySet::empty();
    set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })?;
    // Last: a change of user takes both back.
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    set_parent_process_death_signal(Some(Signal::KILL))
}
