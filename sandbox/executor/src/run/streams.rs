//! Descriptors 0, 1 and 2.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::fs::{FileType, OFlags, Uid, fchown, fstat};
use rustix::io::{Errno, fcntl_dupfd_cloexec};
use rustix::process::ioctl_tiocsctty;
use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout};

use super::error::{At, Stage, StageError};
use super::{Stdio, pod_root};

/// What the process is going to have as its standard streams.
pub(crate) enum Streams {
    Given([OwnedFd; 3]),
    /// The slave of its terminal.
    Terminal(OwnedFd),
}

impl Streams {
    /// Fills the gaps with the pod's null device. To be called while the pod's root is the root.
    pub(crate) fn prepare(stdio: Stdio) -> Result<Self, StageError> {
        let or_null = |stream: Option<OwnedFd>| match stream {
            Some(stream) => above_standard(stream).at(Stage::Stdio, "duplicate"),
            None => pod_root::null(OFlags::RDWR, Stage::Stdio),
        };
        Ok(Self::Given([or_null(stdio.stdin)?, or_null(stdio.stdout)?, or_null(stdio.stderr)?]))
    }

    /// Puts them in place; a terminal becomes the controlling one of this session.
    pub(crate) fn connect(&self, uid: u32) -> Result<(), StageError> {
        let [stdin, stdout, stderr] = match self {
            Self::Given([stdin, stdout, stderr]) => [stdin, stdout, stderr],
            Self::Terminal(slave) => {
                ioctl_tiocsctty(slave).at(Stage::Terminal, "make it the controlling one")?;
                [slave, slave, slave]
            }
        };
        let connect = || {
            dup2_stdin(stdin)?;
            dup2_stdout(stdout)?;
            dup2_stderr(stderr)
        };
        connect().at(Stage::Stdio, "duplicate")?;
        self.give_to(uid).at(Stage::Stdio, "give them to the user")
    }

    /// A user other than root can open /dev/stdout again only when the pipe is his.
    fn give_to(&self, uid: u32) -> Result<(), Errno> {
        let Self::Given(streams) = self else { return Ok(()) };
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
}

/// A monitor without standard streams of its own may have been given these very numbers.
fn above_standard(fd: OwnedFd) -> Result<OwnedFd, Errno> {
    if fd.as_raw_fd() > 2 { Ok(fd) } else { fcntl_dupfd_cloexec(&fd, 3) }
}
