//! The part of the host that a fork server keeps when it exchanges the host's mounts for the tiny root of its
//! copies: each of these then copies one mount, however many the host has.

use std::time::{Duration, Instant};

use crisp_executor::run::{StageError, pod_root};
use crisp_monitor::wire::Failure;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{Mode, OFlags, open, openat};
use rustix::io::Errno;
use rustix::thread::{ThreadNameSpaceType, UnshareFlags, move_into_thread_name_spaces};

use super::{failed, namespaces};
use crate::sys;

/// How long a prepared network namespace is used: the kernel copied the host's settings when it was made, and a
/// pod must not get those of another time. Long enough for pods that are made one after another.
const FRESH: Duration = Duration::from_secs(2);

/// Settings that the start of a network itself changes, so that even a fresh namespace may lack them: this
/// server's own network turns forwarding on, agents of others turn the filter off.
const SETTINGS: [&str; 3] = [
    "sys/net/ipv4/conf/all/forwarding",
    "sys/net/ipv4/conf/all/rp_filter",
    "sys/net/ipv4/conf/default/rp_filter",
];

/// Their values; zeros for one that cannot be read.
type Settings = [[u8; 8]; SETTINGS.len()];

/// Closed by a copy when it becomes a pod.
pub(crate) struct LeftHost {
    /// See [`namespaces::host_proc`].
    pub(super) proc: Option<OwnedFd>,
    /// A prepared network namespace for the next copy that needs one: making it takes half a millisecond,
    /// which no pod must wait for.
    pub(crate) network: Option<OwnedFd>,
    /// When that was made, and the host's settings then.
    made: (Instant, Settings),
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
        let made = (Instant::now(), settings(proc.as_ref()));
        Ok(Self { proc, network: None, made, mounts })
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
        self.made = (Instant::now(), settings(proc));
        if sys::unshare(UnshareFlags::NEWNET).is_ok() {
            self.network = namespaces::own_network(proc).ok();
            move_into_thread_name_spaces(own.as_fd(), ThreadNameSpaceType::NETWORK)?;
        }
        Ok(())
    }

    /// Drops a prepared network namespace with settings that may not be the host's any more.
    pub(crate) fn drop_old_network(&mut self) {
        let (at, then) = self.made;
        if at.elapsed() > FRESH || then != settings(self.proc.as_ref()) {
            self.network = None;
        }
    }

    /// Returns to the host's mounts, for a pod that needs a part of them.
    pub(super) fn go_back(self) -> Result<(), Failure> {
        move_into_thread_name_spaces(self.mounts.as_fd(), ThreadNameSpaceType::MOUNT)
            .map_err(failed("return to the host's mount namespace"))
    }
}

fn settings(proc: Option<&OwnedFd>) -> Settings {
    let read = |path: &str| {
        let mut value = [0; 8];
        let file = openat(proc.ok_or(Errno::NOENT)?, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        rustix::io::read(file, &mut value).map(|_| value)
    };
    SETTINGS.map(|path| read(path).unwrap_or_default())
}
