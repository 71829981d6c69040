//! Paths of the binary in the server's folders; each crate has its own part below them.

use std::path::{Path, PathBuf};

/// The lock of a folder.
pub fn lock(folder: &Path) -> PathBuf {
    folder.join("crisp.lock")
}

/// Records of the pod network, in either folder.
pub fn network(folder: &Path) -> PathBuf {
    folder.join("network")
}

/// Data of standalone pods. It is on disk: /run is small, and often mounted noexec.
pub fn standalone(root: &Path) -> PathBuf {
    root.join("standalone")
}

/// Volumes, logs and other data of the pods of a foreground `crisp run`, a folder each.
pub fn foreground_pods(root: &Path) -> PathBuf {
    standalone(root).join("run")
}

/// Named volumes, which outlive pods.
pub fn named_volumes(root: &Path) -> PathBuf {
    standalone(root).join("volumes")
}

/// The path of one of them.
pub fn named_volume(volumes: &Path, name: &str) -> PathBuf {
    volumes.join(name)
}

/// The volume of a claim, whose name includes the namespace. No name in Kubernetes has a `_`.
pub fn claimed_volume(volumes: &Path, namespace: &str, claim: &str) -> PathBuf {
    match namespace {
        "default" => named_volume(volumes, claim),
        namespace => named_volume(volumes, &format!("{namespace}_{claim}")),
    }
}

/// The record of a container of `crisp oci`, in its folder.
pub fn oci_record(folder: &Path) -> PathBuf {
    folder.join("state.json")
}

/// The spec of a container of `crisp oci`, in its folder or in its bundle.
pub fn oci_config(folder: &Path) -> PathBuf {
    folder.join("config.json")
}

/// The socket of the server of a `crisp run`, for the other commands.
pub fn standalone_socket(state: &Path) -> PathBuf {
    state.join("crisp.sock")
}

/// Volumes of a standalone pod, in the pod's folder.
pub fn run_volumes(folder: &Path) -> PathBuf {
    folder.join("volumes")
}

/// The path of one of them.
pub fn run_volume(volumes: &Path, name: &str) -> PathBuf {
    volumes.join(name)
}

/// The path at which a volume is made; it is renamed when it is complete. No name begins with a dot.
pub fn unfinished(volume: &Path) -> PathBuf {
    let name = volume.file_name().unwrap_or_default().to_string_lossy();
    volume.with_file_name(format!(".{name}.new"))
}

/// The mount point of a container's part of a volume.
pub fn run_sub_path(folder: &Path, container: &str, index: usize) -> PathBuf {
    folder.join("sub-paths").join(container).join(index.to_string())
}

/// The last message of a container.
pub fn run_message(folder: &Path, container: &str) -> PathBuf {
    folder.join("messages").join(container)
}

/// Logs of its containers.
pub fn run_logs(folder: &Path) -> PathBuf {
    folder.join("logs")
}

/// Its hosts file, when the manifest has `hostAliases`.
pub fn run_hosts(folder: &Path) -> PathBuf {
    folder.join("hosts")
}

/// Records and folders of the pods that a server supervises.
pub fn supervised_pods(root: &Path) -> PathBuf {
    standalone(root).join("pods")
}

/// Volumes, logs and other data of one of them.
pub fn supervised_pod(root: &Path, uid: &str) -> PathBuf {
    supervised_pods(root).join(uid)
}

/// The record of one of them.
pub fn supervised_record(pods: &Path, uid: &str) -> PathBuf {
    pods.join(format!("{uid}.json"))
}

/// The status of one of them.
pub fn supervised_status(pods: &Path, uid: &str) -> PathBuf {
    pods.join(format!("{uid}.status"))
}
