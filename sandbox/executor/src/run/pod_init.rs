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
use crate::sys::{self, Cloned};

/// The same unprivileged user as in pause images.
const USER: u32 = 65_535;

/// The pod's init, a child of the caller. Everything in the namespace ends with it.
#[derive(Debug)]
pub struct PodInit {
    /// In the caller's PID namespace.
    pub pid: i32,
    /// For [`PodContext::init`](super::PodContext::init) and for ending it (SIGKILL).
    pub pidfd: OwnedFd,
}

/// Clones the pod's init into a new PID namespace. It keeps no descriptor and dies with its parent.
/// The caller has one thread.
///
/// # Errors
/// [`Stage::Clone`].
pub fn start() -> Result<PodInit, StageError> {
    match sys::clone3(libc::CLONE_NEWPID as u64, None).at(Stage::Clone, "the pod's init")? {
        Cloned::Parent { pid, pidfd } => Ok(PodInit { pid, pidfd }),
        Cloned::Child => {
            if drop_privileges().is_err() {
                sys::exit(1);
            }
            sys::without_descriptors(sys::reap_forever)
        }
    }
}

fn drop_privileges() -> Result<(), Errno> {
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
    let (user, group) = (Uid::from_raw(USER), Gid::from_raw(USER));
    set_thread_res_gid(group, group, group)?;
    set_thread_res_uid(user, user, user)?;
    let none = CapabilitySet::empty();
    set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })?;
    // Last: a change of user takes it back.
    set_parent_process_death_signal(Some(Signal::KILL))
}
