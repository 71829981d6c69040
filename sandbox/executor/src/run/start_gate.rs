//! The gate at which a container's first process waits before its exec, for callers that create and start a
//! container by two runs of a program.
//!
//! ```text
//!  create                     process                   start
//!  listen() ----clone---->    all of its setup
//!    <-------- Waiting ------ accept()  <-------------- connect()
//!  ends                       seccomp filter, exec ---> Executed, or Failed with the stage
//! ```
//!
//! The gate is a socket in a folder that only root may enter. The exec closes it, so that it opens once.

use std::convert::Infallible;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use rustix::io::{Errno, retry_on_intr};
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, connect as connect_to,
    listen as listen_at, socket_with,
};

use super::error::{At, Stage, StageError};
use super::report::{Report, Reporter};
use crate::sys;

/// Makes the gate `name` in `folder`.
///
/// # Errors
/// As bind(2): EADDRINUSE when the name is taken.
pub fn listen(folder: BorrowedFd<'_>, name: &str) -> Result<OwnedFd, Errno> {
    let socket = socket()?;
    bind(&socket, &address(folder, name)?)?;
    listen_at(&socket, 1)?;
    Ok(socket)
}

/// Opens the gate `name` in `folder`: its process goes on, and reports to the caller.
///
/// # Errors
/// As connect(2): ECONNREFUSED when no process waits at it any more.
pub fn open(folder: BorrowedFd<'_>, name: &str) -> Result<Report, Errno> {
    let socket = socket()?;
    retry_on_intr(|| connect_to(&socket, &address(folder, name)?))?;
    Ok(Report::from(socket))
}

fn socket() -> Result<OwnedFd, Errno> {
    socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
}

/// By the descriptor of the folder: an address has 108 bytes, a path may have more.
fn address(folder: BorrowedFd<'_>, name: &str) -> Result<SocketAddrUnix, Errno> {
    SocketAddrUnix::new(format!("/proc/self/fd/{}/{name}", folder.as_raw_fd()))
}

/// Waits at `gate`, then runs `exec`, which returns with an error only: it is reported to who opened the gate.
pub(crate) fn pass(
    gate: BorrowedFd<'_>,
    reporter: &Reporter,
    exec: impl FnOnce() -> Result<Infallible, StageError>,
) -> Result<Infallible, StageError> {
    reporter.waiting();
    let starter = retry_on_intr(|| accept_with(gate, SocketFlags::CLOEXEC));
    let starter = Reporter::from(starter.at(Stage::StartGate, "accept")?);
    let Err(error) = exec();
    starter.failed(error);
    // Not to the caller of the clone, which may have ended.
    sys::exit(127)
}
