//! Pipes to and from a process: the server's end is asynchronous, the other one is passed on.

use std::os::fd::OwnedFd;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::pipe::PipeFlags;
use tokio::net::unix::pipe;

use crate::cause::Cause;

/// A pipe for the output of the process.
pub(in crate::ops) fn output() -> Result<(pipe::Receiver, OwnedFd), Cause> {
    let (read, write) = make()?;
    Ok((receiver(read)?, write))
}

/// Like [`output`], but its reading end is polled only when [`receiver`] is made of it.
pub(in crate::ops) fn unpolled_output() -> Result<(OwnedFd, OwnedFd), Cause> {
    let (read, write) = make()?;
    rustix::io::ioctl_fionbio(&read, true).map_err(Cause::system("use a pipe"))?;
    Ok((read, write))
}

/// An existing reading end.
pub(in crate::ops) fn receiver(read: OwnedFd) -> Result<pipe::Receiver, Cause> {
    pipe::Receiver::from_owned_fd(read).map_err(unusable)
}

/// Like [`output`], with a capacity of `bytes` if the kernel allows it.
pub(in crate::ops) fn large_output(bytes: usize) -> Result<(pipe::Receiver, OwnedFd), Cause> {
    let (receiver, write) = output()?;
    let _ = rustix::pipe::fcntl_setpipe_size(&write, bytes);
    Ok((receiver, write))
}

/// Whether the pipe is empty and its writing end is closed.
pub(in crate::ops) fn is_closed(read: &pipe::Receiver) -> bool {
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    let mut fds = [PollFd::new(read, PollFlags::IN)];
    poll(&mut fds, Some(&now)).is_ok() && fds[0].revents() == PollFlags::HUP
}

/// A pipe for the input of the process.
pub(in crate::ops) fn input() -> Result<(pipe::Sender, OwnedFd), Cause> {
    let (read, write) = make()?;
    Ok((sender(write)?, read))
}

/// An existing writing end.
pub(in crate::ops) fn sender(write: OwnedFd) -> Result<pipe::Sender, Cause> {
    pipe::Sender::from_owned_fd(write).map_err(unusable)
}

fn make() -> Result<(OwnedFd, OwnedFd), Cause> {
    rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(Cause::system("make a pipe"))
}

fn unusable(error: std::io::Error) -> Cause {
    let errno = Errno::from_io_error(&error).unwrap_or(Errno::IO);
    Cause::System { action: "use a pipe", errno }
}
