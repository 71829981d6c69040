//! A process's terminal: its master is sent to the caller's socket.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags, open};
use rustix::io::retry_on_intr;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags,
    SocketType, connect, sendmsg, socket_with,
};

use super::relay;

/// Time limit for the receiver to accept, so that a receiver that hangs cannot block the container for ever.
const ACCEPT: Duration = Duration::from_secs(10);

/// The receiver of a terminal's master.
#[derive(Debug)]
pub enum Console {
    /// The process has no terminal.
    None,
    Socket(PathBuf),
    /// The terminal is relayed to the caller's terminal.
    Foreground,
}

impl Console {
    /// # Errors
    /// The process has a terminal but no receiver for its master is named, or the other way round.
    pub fn choose(terminal: bool, socket: Option<&Path>, foreground: bool) -> anyhow::Result<Self> {
        match (terminal, socket) {
            (false, None) => Ok(Self::None),
            (true, Some(socket)) => Ok(Self::Socket(socket.to_owned())),
            (true, None) if foreground => Ok(Self::Foreground),
            (true, None) => {
                bail!("process.terminal: is true: give --console-socket, to which its master is sent")
            }
            (false, Some(_)) => bail!("--console-socket: is of no use, as process.terminal is not true"),
        }
    }

    /// Sends `master` to the socket; for a foreground command returns it instead, to be relayed.
    ///
    /// # Errors
    /// The error names the socket.
    pub fn take(&self, master: OwnedFd) -> anyhow::Result<Option<OwnedFd>> {
        match self {
            Self::Socket(path) => {
                send(path, &master).with_context(|| format!("--console-socket {}", path.display()))?;
                Ok(None)
            }
            Self::None | Self::Foreground => {
                // Set before the program begins, because it may read the size.
                relay::copy_size(&master);
                Ok(Some(master))
            }
        }
    }
}

/// Connects through a descriptor: a socket address holds 108 bytes, a path may be longer.
fn send(path: &Path, master: &OwnedFd) -> anyhow::Result<()> {
    let place = open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    set_socket_timeout(&socket, Timeout::Send, Some(ACCEPT))?;
    let address = SocketAddrUnix::new(format!("/proc/self/fd/{}", place.as_raw_fd()))?;
    retry_on_intr(|| connect(&socket, &address))?;
    let fds = [master.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(&fds));
    // The name is informative: receivers only use the descriptor.
    retry_on_intr(|| sendmsg(&socket, &[IoSlice::new(b"/dev/ptmx")], &mut control, SendFlags::NOSIGNAL))?;
    Ok(())
}
