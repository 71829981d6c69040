//! Descriptors 0, 1 and 2.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, OFlags, Uid, fchown, fstat};
use rustix::io::{Errno, fcntl_dupfd_cloexec};
use rustix::process::ioctl_tiocsctty;
use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout};

use super::error::{At, Stage, StageError};
use super::{Stdio, pod_root};
use crate::user_namespace::UserNamespace;

/// Puts `stdio` in place, and the pod's null device where it has gaps. To be called while the pod's
/// root is the root. Its pipes are given to `owner`, by the number that the user has here.
pub(crate) fn connect(stdio: Stdio, owner: u32) -> Result<(), StageError> {
    let or_null = |stream: Option<OwnedFd>| match stream {
        Some(stream) => above_standard(stream).at(Stage::Stdio, "duplicate"),
        None => pod_root::null(OFlags::RDWR, Stage::Stdio),
    };
    let streams = [or_null(stdio.stdin)?, or_null(stdio.stdout)?, or_null(stdio.stderr)?];
    let [stdin, stdout, stderr] = &streams;
    replace(stdin, stdout, stderr)?;
    give_all(streams.iter(), owner)
}

/// The number that the user `uid` of a container has here.
pub(crate) fn owner(user: &UserNamespace, uid: u32) -> Result<u32, StageError> {
    user.mappings.host_uid(uid).ok_or_else(|| {
        let why = format!("{uid}: is not mapped in the user namespace of the pod");
        StageError::explained(Stage::User, Errno::OVERFLOW, why)
    })
}

/// Gives the pipes of `stdio` to `owner`.
pub(crate) fn give_to(stdio: &Stdio, owner: u32) -> Result<(), StageError> {
    give_all([&stdio.stdin, &stdio.stdout, &stdio.stderr].into_iter().flatten(), owner)
}

/// Puts a terminal in place of all three and makes it the controlling one of this session.
pub(crate) fn connect_terminal(slave: &OwnedFd) -> Result<(), StageError> {
    ioctl_tiocsctty(slave).at(Stage::Terminal, "make it the controlling one")?;
    replace(slave, slave, slave)
}

fn replace(stdin: &OwnedFd, stdout: &OwnedFd, stderr: &OwnedFd) -> Result<(), StageError> {
    let replace = || {
        dup2_stdin(stdin)?;
        dup2_stdout(stdout)?;
        dup2_stderr(stderr)
    };
    replace().at(Stage::Stdio, "duplicate")
}

/// A user other than the host's root can open /dev/stdout again only when the pipe is his.
fn give_all<'a>(streams: impl Iterator<Item = &'a OwnedFd>, owner: u32) -> Result<(), StageError> {
    if owner == 0 {
        return Ok(());
    }
    let give = |stream: &OwnedFd| -> Result<(), Errno> {
        let stat = fstat(stream)?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Fifo && stat.st_uid != owner {
            fchown(stream.as_fd(), Some(Uid::from_raw(owner)), None)?;
        }
        Ok(())
    };
    for stream in streams {
        give(stream).at(Stage::Stdio, "give them to the user")?;
    }
    Ok(())
}

/// A monitor without standard streams of its own may have been given these very numbers.
fn above_standard(fd: OwnedFd) -> Result<OwnedFd, Errno> {
    if fd.as_raw_fd() > 2 { Ok(fd) } else { fcntl_dupfd_cloexec(&fd, 3) }
}

/// The descriptors of `stdio` that are there.
pub(crate) fn open_ones(stdio: &Stdio) -> impl Iterator<Item = BorrowedFd<'_>> {
    [&stdio.stdin, &stdio.stdout, &stdio.stderr].into_iter().flatten().map(AsFd::as_fd)
}
