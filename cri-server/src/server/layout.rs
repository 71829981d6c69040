//! What the binary itself has in the server's folders; each crate has its own part below them.

use std::path::{Path, PathBuf};

/// The lock of a folder.
pub fn lock(folder: &Path) -> PathBuf {
    folder.join("crisp.lock")
}

/// Records of the pod network, in either folder.
pub fn network(folder: &Path) -> PathBuf {
    folder.join("network")
}

/// What pods of `crisp run` need while they run: volumes and logs. On disk: /run is small, and often forbids
/// to execute files.
pub fn standalone(root: &Path) -> PathBuf {
    root.join("standalone")
}

/// The socket of the server of a `crisp run`, for the other commands.
pub fn standalone_socket(state: &Path) -> PathBuf {
    state.join("crisp.sock")
}

/// Volumes of a pod of `crisp run`, in the pod's folder.
pub fn run_volumes(folder: &Path) -> PathBuf {
    folder.join("volumes")
}

/// Logs of its containers.
pub fn run_logs(folder: &Path) -> PathBuf {
    folder.join("logs")
}

/// Its hosts file, when the manifest has `hostAliases`.
pub fn run_hosts(folder: &Path) -> PathBuf {
    folder.join("hosts")
}
