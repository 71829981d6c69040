//! Starting a pod's monitor: the only process that this crate starts, next to CNI plugins.
//!
//! The binary is a sealed memfd, one for all monitors of a server's life: its pages are shared, it
//! can be replaced on disk while pods live, and a container that got hold of it could not write it.

use std::ffi::CStr;
use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;

use crisp_executor::id::PodId;
use rustix::fd::{AsRawFd, OwnedFd};
use rustix::fs::{CWD, MemfdFlags, Mode, OFlags, SealFlags, fcntl_add_seals, memfd_create, openat};
use rustix::io::Errno;

use crate::link::connect::listen;

/// Name of the socket in the pod's folder.
pub const SOCKET: &str = "monitor.sock";
/// Name of the file in the pod's folder that takes what a monitor has to complain about.
pub const LOG: &str = "monitor.log";

/// The `crisp-pod` program, ready to be run any number of times.
#[derive(Debug, Clone)]
pub struct MonitorBinary {
    memory: Arc<OwnedFd>,
}

/// A monitor that did not come to be.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    #[error("keep the monitor's program in memory: {}", std::io::Error::from(*errno))]
    Binary { errno: Errno },
    #[error("listen on {}: {}", path.display(), std::io::Error::from(*errno))]
    Listen { path: PathBuf, errno: Errno },
    #[error("open {}: {}", path.display(), std::io::Error::from(*errno))]
    Log { path: PathBuf, errno: Errno },
    #[error("run the monitor of pod {pod}: {error}")]
    Run { pod: PodId, error: std::io::Error },
}

impl MonitorBinary {
    /// Copies the program into memory and seals it there.
    ///
    /// # Errors
    /// [`SpawnError::Binary`].
    pub fn new(bytes: &[u8]) -> Result<Self, SpawnError> {
        let sealable = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let memory = filled_memfd(c"crisp-pod", sealable | MemfdFlags::EXEC, bytes)
            // Linux before 6.3 does not know the flag, and makes every memfd executable.
            .or_else(|errno| match errno {
                Errno::INVAL => filled_memfd(c"crisp-pod", sealable, bytes),
                errno => Err(errno),
            })
            .map_err(|errno| SpawnError::Binary { errno })?;
        let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
        fcntl_add_seals(&memory, seals).map_err(|errno| SpawnError::Binary { errno })?;
        Ok(Self { memory: Arc::new(memory) })
    }
}

/// Starts the monitor of `pod`, listening on [`SOCKET`] in `folder`, and returns its process id.
///
/// The socket listens before the process runs: a client may connect at once. The monitor is in a
/// session of its own; it is reaped here while the server lives and by the host's init after that.
/// Must be called within a tokio runtime.
///
/// # Errors
/// [`SpawnError`]; nothing runs then, though the socket's file may be there.
pub fn spawn(binary: &MonitorBinary, pod: &PodId, folder: &Path) -> Result<i32, SpawnError> {
    let socket = folder.join(SOCKET);
    let listener = listen(&socket).map_err(|errno| SpawnError::Listen { path: socket, errno })?;
    let log = open_log(folder)?;
    let program = format!("/proc/self/fd/{}", binary.memory.as_raw_fd());
    let mut command = std::process::Command::new(program);
    command
        .arg0("crisp-pod")
        .arg(pod.as_str())
        .env_clear()
        .current_dir("/")
        // No unsafe hook between fork and exec is needed to pass a descriptor as number 0.
        .stdin(Stdio::from(listener))
        .stdout(Stdio::null())
        .stderr(Stdio::from(log));
    let mut child = tokio::process::Command::from(command)
        .kill_on_drop(false)
        .spawn()
        .map_err(|error| SpawnError::Run { pod: pod.clone(), error })?;
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).unwrap_or_default();
    tokio::spawn(async move {
        let _ = child.wait().await;
    });
    Ok(pid)
}

fn filled_memfd(name: &CStr, flags: MemfdFlags, bytes: &[u8]) -> Result<OwnedFd, Errno> {
    let file = memfd_create(name, flags)?;
    let mut left = bytes;
    while !left.is_empty() {
        match rustix::io::write(&file, left) {
            Ok(n) => left = &left[n..],
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(file)
}

fn open_log(folder: &Path) -> Result<File, SpawnError> {
    let path = folder.join(LOG);
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::APPEND | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match openat(CWD, &path, flags, Mode::from_raw_mode(0o600)) {
        Ok(file) => Ok(File::from(file)),
        Err(errno) => Err(SpawnError::Log { path, errno }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_in_memory_cannot_be_written() {
        let binary = MonitorBinary::new(b"#!/bin/sh\n").unwrap();
        assert_eq!(rustix::io::write(&*binary.memory, b"x"), Err(Errno::PERM));
    }
}
