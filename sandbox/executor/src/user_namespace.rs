//! User namespaces: ids of users and groups that differ inside and on the host.
//!
//! A pod with a user namespace has ids of its own. For example, its root (0) is user 65536 on the host, which
//! has no rights there on files, processes and kernel settings.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags, open, openat};
use rustix::io::Errno;
use rustix::process::{Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};
use serde::{Deserialize, Serialize};

use crate::sys::{self, Cloned};

/// Maps `length` ids from `container` on to those from `host` on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct IdRange {
    pub container: u32,
    pub host: u32,
    pub length: u32,
}

/// The mapping from ids of a user namespace to ids of the host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct IdMappings {
    pub uids: Vec<IdRange>,
    pub gids: Vec<IdRange>,
}

/// The kernel's limit (UID_GID_MAP_MAX_EXTENTS).
const MAX_RANGES: usize = 340;

/// The reason why mappings are refused. `list` is `uids` or `gids`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidMappings {
    #[error("{list}: empty: no id would exist in the namespace")]
    Empty { list: &'static str },
    #[error("{list}: {count} ranges are more than the {MAX_RANGES} that the kernel takes")]
    TooMany { list: &'static str, count: usize },
    #[error("{list}[{index}]: its length is 0")]
    NoLength { list: &'static str, index: usize },
    #[error("{list}[{index}]: it goes beyond the last id, 4294967294")]
    TooLong { list: &'static str, index: usize },
    #[error("{list}[{index}]: it overlaps with another range")]
    Overlap { list: &'static str, index: usize },
}

impl IdRange {
    fn is_in_range(self) -> bool {
        // The kernel uses the highest number for "no id".
        [self.container, self.host].into_iter().all(|first| u32::MAX - first >= self.length)
    }

    fn overlaps(self, other: Self) -> bool {
        let meet = |a: u32, b: u32| {
            u64::from(a) < u64::from(b) + u64::from(other.length)
                && u64::from(b) < u64::from(a) + u64::from(self.length)
        };
        meet(self.container, other.container) || meet(self.host, other.host)
    }
}

impl IdMappings {
    /// Whether the kernel would accept the mappings.
    ///
    /// # Errors
    /// The first range that it would not accept.
    pub fn check(&self) -> Result<(), InvalidMappings> {
        check("uids", &self.uids)?;
        check("gids", &self.gids)
    }

    /// The host's uid for `uid` inside; None when it is not mapped.
    #[must_use]
    pub fn host_uid(&self, uid: u32) -> Option<u32> {
        host_id(&self.uids, uid)
    }

    /// The host's gid for `gid` inside; None when it is not mapped.
    #[must_use]
    pub fn host_gid(&self, gid: u32) -> Option<u32> {
        host_id(&self.gids, gid)
    }

    /// The uid inside for the host's `uid`; None when it is not mapped.
    #[must_use]
    pub fn container_uid(&self, uid: u32) -> Option<u32> {
        container_id(&self.uids, uid)
    }

    /// The gid inside for the host's `gid`; None when it is not mapped.
    #[must_use]
    pub fn container_gid(&self, gid: u32) -> Option<u32> {
        container_id(&self.gids, gid)
    }
}

fn check(list: &'static str, ranges: &[IdRange]) -> Result<(), InvalidMappings> {
    match ranges.len() {
        0 => return Err(InvalidMappings::Empty { list }),
        count if count > MAX_RANGES => return Err(InvalidMappings::TooMany { list, count }),
        _ => {}
    }
    for (index, range) in ranges.iter().enumerate() {
        if range.length == 0 {
            return Err(InvalidMappings::NoLength { list, index });
        }
        if !range.is_in_range() {
            return Err(InvalidMappings::TooLong { list, index });
        }
        if ranges[..index].iter().any(|earlier| earlier.overlaps(*range)) {
            return Err(InvalidMappings::Overlap { list, index });
        }
    }
    Ok(())
}

fn host_id(ranges: &[IdRange], id: u32) -> Option<u32> {
    let range = ranges.iter().find(|r| id.checked_sub(r.container).is_some_and(|at| at < r.length))?;
    Some(range.host + (id - range.container))
}

fn container_id(ranges: &[IdRange], id: u32) -> Option<u32> {
    let range = ranges.iter().find(|r| id.checked_sub(r.host).is_some_and(|at| at < r.length))?;
    Some(range.container + (id - range.host))
}

/// A user namespace. It exists as long as this value, a mount with its mappings, or a process in it.
#[derive(Debug)]
pub struct UserNamespace {
    fd: OwnedFd,
    pub mappings: IdMappings,
}

/// The step at which making a user namespace failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{step}: {}{hint}", std::io::Error::from(*errno))]
pub struct UserNamespaceError {
    pub step: &'static str,
    pub errno: Errno,
    hint: &'static str,
}

impl UserNamespace {
    /// Makes a user namespace. For a moment this needs a process: a copy of this one, without descriptors.
    ///
    /// # Errors
    /// [`UserNamespaceError`], with a remedy.
    pub fn new(mappings: IdMappings) -> Result<Self, UserNamespaceError> {
        let failed = |step| move |errno| UserNamespaceError { step, errno, hint: hint(step, errno) };
        match sys::clone3(libc::CLONE_NEWUSER as u64, None).map_err(failed(CLONE))? {
            Cloned::Child => sys::without_descriptors(sys::reap_forever),
            Cloned::Parent { pid, pidfd } => {
                let made = map(pid, &mappings);
                let _ = pidfd_send_signal(&pidfd, Signal::KILL);
                let _ = waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED);
                let fd = made.map_err(|(step, errno)| failed(step)(errno))?;
                Ok(Self { fd, mappings })
            }
        }
    }

    /// Opens the user namespace that owns `namespace`, a namespace of another kind.
    ///
    /// # Errors
    /// The error of ioctl_nsfs(2).
    pub fn owner_of(namespace: BorrowedFd<'_>, mappings: IdMappings) -> Result<Self, Errno> {
        Ok(Self { fd: sys::user_namespace_of(namespace)?, mappings })
    }
}

impl AsFd for UserNamespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

const CLONE: &str = "clone a process into a new user namespace";
const UID_MAP: &str = "write its uid_map";
const GID_MAP: &str = "write its gid_map";

fn hint(step: &'static str, errno: Errno) -> &'static str {
    match (step, errno) {
        (CLONE, Errno::NOSPC | Errno::USERS) => {
            " (this host allows no more: see the setting user.max_user_namespaces)"
        }
        (CLONE, Errno::INVAL) => " (the kernel is built without CONFIG_USER_NS)",
        (CLONE, Errno::PERM) => " (a security module or the runtime's own confinement forbids it)",
        (UID_MAP | GID_MAP, Errno::PERM) => {
            " (the host's ids are not the runtime's to give: it runs in a user namespace itself)"
        }
        _ => "",
    }
}

fn map(pid: i32, mappings: &IdMappings) -> Result<OwnedFd, (&'static str, Errno)> {
    let path = format!("/proc/{pid}");
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let process = open(path, flags, Mode::empty()).map_err(|errno| ("open its folder in /proc", errno))?;
    for (name, step, ranges) in [(c"uid_map", UID_MAP, &mappings.uids), (c"gid_map", GID_MAP, &mappings.gids)]
    {
        let text: String =
            ranges.iter().map(|r| format!("{} {} {}\n", r.container, r.host, r.length)).collect();
        let write = || {
            let file = openat(&process, name, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
            // The kernel accepts a map only in one write.
            rustix::io::write(file, text.as_bytes()).map(drop)
        };
        write().map_err(|errno| (step, errno))?;
    }
    openat(&process, c"ns/user", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| ("open it", errno))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(container: u32, host: u32, length: u32) -> IdRange {
        IdRange { container, host, length }
    }

    #[test]
    fn ids_are_found_in_their_ranges() {
        let mappings =
            IdMappings { uids: vec![range(0, 1000, 10), range(10, 5000, 1)], gids: vec![range(0, 7, 1)] };
        let uids = [0, 9, 10, 11, u32::MAX].map(|uid| mappings.host_uid(uid));
        assert_eq!(uids, [Some(1000), Some(1009), Some(5000), None, None]);
        assert_eq!((mappings.host_gid(0), mappings.host_gid(1)), (Some(7), None));
        let uids = [0, 999, 1000, 1009, 1010, 5000].map(|uid| mappings.container_uid(uid));
        assert_eq!(uids, [None, None, Some(0), Some(9), None, Some(10)]);
        assert_eq!((mappings.container_gid(7), mappings.container_gid(0)), (Some(0), None));
    }

    #[test]
    fn what_the_kernel_would_refuse_is_refused_by_name() {
        let gids = vec![range(0, 0, 1)];
        let refused = |uids: Vec<IdRange>| {
            IdMappings { uids, gids: gids.clone() }.check().err().map(|error| error.to_string())
        };
        assert_eq!(refused(vec![range(0, 1000, 100_000), range(100_000, 0, 1000)]), None);
        assert_eq!(refused(vec![range(0, u32::MAX - 1, 1)]), None, "the last id");
        let last = |uids| refused(uids).unwrap();
        assert!(last(vec![]).starts_with("uids: empty"));
        assert!(last(vec![range(0, 1, 0)]).starts_with("uids[0]: its length is 0"));
        assert!(last(vec![range(0, u32::MAX, 1)]).starts_with("uids[0]: it goes beyond"));
        assert!(last(vec![range(1, 1, u32::MAX)]).starts_with("uids[0]: it goes beyond"));
        assert!(last(vec![range(0, 1000, 10), range(0, 2000, 10)]).starts_with("uids[1]: it overlaps"));
        assert!(last(vec![range(0, 1000, 10), range(10, 1009, 10)]).starts_with("uids[1]: it overlaps"));
        let many = (0..341).map(|n| range(n, n, 1)).collect();
        assert!(last(many).starts_with("uids: 341 ranges"));
    }

    #[test]
    fn a_namespace_has_the_mappings_that_it_was_made_with() {
        crisp_skip::needs!();
        let mappings = IdMappings { uids: vec![range(0, 100_000, 65_536)], gids: vec![range(0, 7000, 1)] };
        let namespace = UserNamespace::new(mappings.clone()).unwrap();
        let own = std::fs::read_link("/proc/self/ns/user").unwrap();
        let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&namespace.as_fd()));
        let link = std::fs::read_link(path).unwrap();
        assert!(link != own && link.to_string_lossy().starts_with("user:["), "{link:?}");
        let children = format!("/proc/self/task/{}/children", rustix::thread::gettid().as_raw_nonzero());
        assert_eq!(std::fs::read_to_string(children).unwrap_or_default(), "", "its process has ended");
        let refused = IdMappings { uids: vec![range(0, 1, 1), range(0, 2, 1)], ..mappings };
        let error = UserNamespace::new(refused).unwrap_err();
        assert_eq!((error.step, error.errno), (UID_MAP, Errno::INVAL));
    }

    #[test]
    fn the_owner_of_a_namespace_is_found() {
        crisp_skip::needs!();
        let own = std::fs::File::open("/proc/self/ns/ipc").unwrap();
        let owner = UserNamespace::owner_of(own.as_fd(), IdMappings::default()).unwrap();
        let stat = |fd: BorrowedFd<'_>| rustix::fs::fstat(fd).unwrap().st_ino;
        let user = std::fs::File::open("/proc/self/ns/user").unwrap();
        assert_eq!(stat(owner.as_fd()), stat(user.as_fd()));
    }
}
