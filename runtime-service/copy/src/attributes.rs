//! Owner, mode and times of copied files.

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};

use crisp_executor::user_namespace::IdMappings;
use crisp_image_service::unpack::tar::{Entry, Time};
use rustix::fs::{
    AtFlags, Gid, Mode, Timespec, Timestamps, UTIME_OMIT, Uid, chownat, fchmod, fchown, futimens,
};
use rustix::io::Errno;

/// The owner of new files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// The user of this process, whose umask applies to the permissions.
    Maker,
    /// Root of the container.
    Root,
    /// The owner that the archive names. Only then files keep set-id bits, which were meant for that user.
    Kept,
}

/// The attributes of one file.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Attributes {
    owner: Option<(Uid, Gid)>,
    pub(crate) mode: Mode,
    modified: Time,
}

impl Attributes {
    /// `umask`: the permission bits that [`Owner::Maker`] removes. `users`: the pod's user namespace, which
    /// maps the ids of the entry to those of the host. Returns None when an id of the entry is not mapped.
    pub(crate) fn of(entry: &Entry, owner: Owner, umask: u32, users: Option<&IdMappings>) -> Option<Self> {
        let bits = match owner {
            Owner::Kept => 0o7777,
            Owner::Root => 0o1777,
            Owner::Maker => 0o1777 & !umask,
        };
        // The kernel takes the highest number for "do not change".
        let is_user = entry.uid != u32::MAX && entry.gid != u32::MAX;
        let owner = match owner {
            Owner::Root => Some((0, 0)),
            Owner::Kept if is_user => Some((entry.uid, entry.gid)),
            Owner::Maker | Owner::Kept => None,
        };
        let owner = match (owner, users) {
            (None, _) => None,
            (Some(owner), None) => Some(owner),
            (Some((uid, gid)), Some(users)) => Some((users.host_uid(uid)?, users.host_gid(gid)?)),
        };
        let owner = owner.map(|(uid, gid)| (Uid::from_raw(uid), Gid::from_raw(gid)));
        Some(Self { owner, mode: Mode::from_raw_mode(entry.mode & bits), modified: entry.modified })
    }

    /// Sets owner, mode and time. The owner is set first: the kernel drops set-id bits when the owner
    /// changes.
    pub(crate) fn give(&self, made: impl AsFd) -> Result<(), Errno> {
        if let Some((uid, gid)) = self.owner {
            fchown(&made, Some(uid), Some(gid))?;
        }
        fchmod(&made, self.mode)?;
        self.give_time(made)
    }

    pub(crate) fn give_time(&self, made: impl AsFd) -> Result<(), Errno> {
        let Time { seconds, nanoseconds } = self.modified;
        let times = Timestamps {
            last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
            last_modification: Timespec { tv_sec: seconds, tv_nsec: nanoseconds.into() },
        };
        futimens(made, &times)
    }

    /// Sets the owner of a file that cannot be opened: a link or a pipe.
    pub(crate) fn give_owner(&self, folder: &OwnedFd, name: &OsStr) -> Result<(), Errno> {
        match self.owner {
            None => Ok(()),
            Some((uid, gid)) => chownat(folder, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW),
        }
    }
}

/// Returns the umask of this process from proc_pid_status(5): umask(2) can only change it.
pub(crate) fn umask() -> u32 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("Umask:"));
    line.and_then(|text| u32::from_str_radix(text.trim(), 8).ok()).unwrap_or(0o022)
}
