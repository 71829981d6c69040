//! Descriptors 0, 1 and 2.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, OFlags, Uid, fchown, fstat};
use rustix::io::{Errno, fcntl_dupfd_cloexec};
use rustix::process::ioctl_tiocsctty;
use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout};

use super::error::{At, Stage, StageError};
use super::{Stdio, pod_root};

/// Puts `stdio` in place, and the pod's null device where it has gaps. To be called while the pod's
/// root is the root.
pub(crate) fn connect(stdio: Stdio, uid: u32) -> Result<(), StageError> {
    let or_null = |stream: Option<OwnedFd>| match stream {
        Some(stream) => above_standard(stream).at(Stage::Stdio, "duplicate"),
        None => pod_root::null(OFlags::RDWR, Stage::Stdio),
    };
    let streams = [or_null(stdio.stdin)?, or_null(stdio.stdout)?, or_null(stdio.stderr)?];
    let [stdin, stdout, stderr] = &streams;
    replace(stdin, stdout, stderr)?;
    give_to(&streams, uid).at(Stage::Stdio, "give them to the user")
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

/// A user other than root can open /dev/stdout again only when the pipe is his.
fn give_to(streams: &[OwnedFd; 3], uid: u32) -> Result<(), Errno> {
    if uid == 0 {
        return Ok(());
    }
    for stream in streams {
        let stat = fstat(stream)?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Fifo && stat.st_uid != uid {
            fchown(stream.as_fd(), Some(Uid::from_raw(uid)), None)?;
        }
    }
    Ok(())
}

/// A monitor without standard streams of its own may have been given these very numbers.
fn above_standard(fd: OwnedFd) -> Result<OwnedFd, Errno> {
    if fd.as_raw_fd() > 2 { Ok(fd) } else { fcntl_dupfd_cloexec(&fd, 3) }
}

/// The descriptors of `stdio` that are there.
pub(crate) fn given(stdio: &Stdio) -> impl Iterator<Item = BorrowedFd<'_>> {
    [&stdio.stdin, &stdio.stdout, &stdio.stderr].into_iter().flatten().map(AsFd::as_fd)
}
