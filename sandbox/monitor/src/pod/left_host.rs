//! The part of the host that a fork server keeps when it exchanges the host's mounts for the tiny root of its
//! copies: each of these then copies one mount, however many the host has.

use crisp_executor::run::{StageError, pod_root};
use crisp_monitor::wire::Failure;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;
use rustix::thread::{ThreadNameSpaceType, UnshareFlags, move_into_thread_name_spaces};

use super::{failed, namespaces};
use crate::sys;

/// Closed by a copy when it becomes a pod.
pub(crate) struct LeftHost {
    /// See [`namespaces::host_proc`].
    pub(super) proc: Option<OwnedFd>,
    /// A prepared network namespace for the next copy that needs one: making it takes half a millisecond,
    /// which no pod must wait for.
    pub(crate) network: Option<OwnedFd>,
    mounts: OwnedFd,
}

impl LeftHost {
    /// Leaves the host's mounts.
    pub(crate) fn leave() -> Result<Self, Failure> {
        let proc = namespaces::host_proc();
        let mounts = open(c"/proc/self/ns/mnt", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
        let mounts = mounts.map_err(failed("open /proc/self/ns/mnt"))?;
        sys::unshare(UnshareFlags::NEWNS).map_err(failed("make a mount namespace"))?;
        let left: Result<(), StageError> = pod_root::enter(None).and_then(|()| pod_root::leave_host());
        left.map_err(Failure::Stage)?;
        Ok(Self { proc, network: None, mounts })
    }

    /// Makes the next network namespace; without it copies make their own.
    ///
    /// # Errors
    /// This process is in the wrong namespace now.
    pub(crate) fn prepare_network(&mut self) -> Result<(), Errno> {
        if self.network.is_some() {
            return Ok(());
        }
        let proc = self.proc.as_ref();
        let Ok(own) = namespaces::own_network(proc) else { return Ok(()) };
        if sys::unshare(UnshareFlags::NEWNET).is_ok() {
            self.network = namespaces::own_network(proc).ok();
            move_into_thread_name_spaces(own.as_fd(), ThreadNameSpaceType::NETWORK)?;
        }
        Ok(())
    }

    /// Returns to the host's mounts, for a pod that needs a part of them.
    pub(super) fn go_back(self) -> Result<(), Failure> {
        move_into_thread_name_spaces(self.mounts.as_fd(), ThreadNameSpaceType::MOUNT)
            .map_err(failed("return to the host's mount namespace"))
    }
}
