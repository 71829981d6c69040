//! Opens a monitor's socket, even if its path is longer than the kernel allows.

use std::path::Path;
use std::time::Duration;

use rustix::fd::{AsRawFd, OwnedFd};
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, socket_with};

use super::LinkError;

/// Connections that may wait for a monitor to accept them.
const BACKLOG: i32 = 16;

/// An address through the open folder: the kernel's limit for a path is 107 bytes.
fn address(socket: &Path) -> Result<(OwnedFd, SocketAddrUnix), Errno> {
    let folder = socket.parent().filter(|path| !path.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = socket.file_name().ok_or(Errno::INVAL)?;
    let folder = openat(CWD, folder, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let path = Path::new("/proc/self/fd").join(folder.as_raw_fd().to_string()).join(name);
    let address = SocketAddrUnix::new(path)?;
    Ok((folder, address))
}

fn seqpacket() -> Result<OwnedFd, Errno> {
    socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )
}

/// A listening socket at `socket`, replacing any file of that name.
pub(crate) fn listen(socket: &Path) -> Result<OwnedFd, Errno> {
    let (_folder, address) = address(socket)?;
    match rustix::fs::unlink(socket) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(errno) => return Err(errno),
    }
    let listener = seqpacket()?;
    rustix::net::bind(&listener, &address)?;
    rustix::net::listen(&listener, BACKLOG)?;
    Ok(listener)
}

/// Connects to a socket at which no other client has been.
pub(super) fn connect_first(socket: &Path) -> Result<OwnedFd, LinkError> {
    let connect = || {
        let (_folder, address) = address(socket)?;
        let descriptor = seqpacket()?;
        rustix::net::connect(&descriptor, &address)?;
        Ok(descriptor)
    };
    connect().map_err(|errno| LinkError::Connect { monitor: socket.to_owned(), errno })
}

pub(super) async fn connect(socket: &Path, deadline: Duration) -> Result<OwnedFd, LinkError> {
    let fail = |errno| LinkError::Connect { monitor: socket.to_owned(), errno };
    let (_folder, address) = address(socket).map_err(fail)?;
    let attempt = async {
        loop {
            let descriptor = seqpacket().map_err(fail)?;
            match rustix::net::connect(&descriptor, &address) {
                Ok(()) => return Ok(descriptor),
                // The backlog is full: the kernel offers no readiness for local sockets.
                Err(Errno::AGAIN) => tokio::time::sleep(Duration::from_millis(5)).await,
                Err(errno) => return Err(fail(errno)),
            }
        }
    };
    tokio::time::timeout(deadline, attempt).await.unwrap_or_else(|_| {
        Err(LinkError::Deadline { monitor: socket.to_owned(), request: "connect", after: deadline })
    })
}
