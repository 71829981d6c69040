//! The server's unix socket: replaces the socket of a dead server, and refuses that of a live one.

use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use tokio::net::UnixListener;

use crate::config::ListenAddress;

/// The reason why the server cannot listen on a socket.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// A server answers there.
    #[error("{path} is in use: another server listens there; give this one its own --listen")]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// A file or folder is at the path.
    #[error("{path} is there and is no socket: it will not be replaced; choose another --listen")]
    NoSocket {
        /// The path.
        path: PathBuf,
    },
    /// An error of the kernel.
    #[error("cannot listen on {path}: {source}")]
    Io {
        /// The socket.
        path: PathBuf,
        /// The kernel's error.
        source: io::Error,
    },
}

/// Listens on the socket. A user needs write permission to connect; the umask of
/// [`Server::open`](super::Server::open) leaves it to root only.
///
/// # Errors
/// [`SocketError`].
pub fn listen(address: &ListenAddress) -> Result<UnixListener, SocketError> {
    let path = address.path().to_owned();
    let failed = |source| SocketError::Io { path: path.clone(), source };
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(failed)?;
    }
    match std::fs::symlink_metadata(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
        Ok(there) if !there.file_type().is_socket() => return Err(SocketError::NoSocket { path }),
        Ok(_) => match UnixStream::connect(&path) {
            Ok(_) => return Err(SocketError::InUse { path }),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                std::fs::remove_file(&path).map_err(failed)?;
            }
            Err(error) => return Err(failed(error)),
        },
    }
    UnixListener::bind(&path).map_err(failed)
}

/// The socket file of this server. Another server may have replaced it since.
#[derive(Debug)]
pub struct Bound {
    path: PathBuf,
    /// Device and inode.
    file: Option<(u64, u64)>,
}

impl Bound {
    /// The socket that [`listen`] has just made.
    pub fn at(path: &Path) -> Self {
        Self { path: path.to_owned(), file: file_at(path) }
    }

    /// Removes the socket, if it is still this server's.
    pub fn remove(self) {
        if self.file.is_some() && file_at(&self.path) == self.file {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn file_at(path: &Path) -> Option<(u64, u64)> {
    let there = std::fs::symlink_metadata(path).ok()?;
    Some((there.dev(), there.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_a_live_one_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/crisp.sock");
        let address = ListenAddress::parse(path.to_str().unwrap()).unwrap();
        let first = listen(&address).unwrap();
        assert!(matches!(listen(&address), Err(SocketError::InUse { .. })));
        drop(first);
        assert!(path.exists(), "as a killed server leaves it");
        drop(listen(&address).unwrap());

        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "precious").unwrap();
        assert!(matches!(listen(&address), Err(SocketError::NoSocket { .. })));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    }

    #[tokio::test]
    async fn a_server_that_ends_leaves_the_socket_of_its_successor() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("crisp.sock");
        let address = ListenAddress::parse(path.to_str().unwrap()).unwrap();
        let first = listen(&address).unwrap();
        let bound = Bound::at(&path);
        drop(first);
        // Kept under another name, so that its inode is not reused.
        std::fs::hard_link(&path, folder.path().join("kept")).unwrap();
        let second = listen(&address).unwrap();
        bound.remove();
        assert!(path.exists(), "the second server cannot be reached");
        Bound::at(&path).remove();
        assert!(!path.exists());
        drop(second);
    }
}
