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

/// What a pod of `crisp run` needs while it runs.
pub fn standalone(state: &Path) -> PathBuf {
    state.join("standalone")
}

/// Where the server of a `crisp run` listens, so that the other commands can look into its pod.
pub fn standalone_socket(state: &Path) -> PathBuf {
    state.join("crisp.sock")
}
