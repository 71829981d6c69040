//! Why systemd did not make a scope.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// What a host lacks for pods that systemd keeps.
#[derive(Debug, thiserror::Error)]
pub enum NoSystemd {
    #[error(
        "systemd is not the init of this host ({path} is not there): use cgroup-driver = cgroupfs, and the same in the kubelet"
    )]
    NotInit { path: &'static str },
    #[error(
        "the systemd cgroup driver needs cgroup v2 alone, and this host has cgroup v1: boot with systemd.unified_cgroup_hierarchy=1, or use cgroup-driver = cgroupfs, and the same in the kubelet"
    )]
    NotV2,
    #[error(transparent)]
    Unreachable(SystemdError),
}

/// systemd did not do as asked.
#[derive(Debug, thiserror::Error)]
pub enum SystemdError {
    #[error("cannot connect to systemd: {failures}")]
    Connect { failures: String },
    #[error("{}: the bus refuses this user: {answer:?}", socket.display())]
    Refused { socket: PathBuf, answer: String },
    #[error("{}: the connection to systemd broke before {unit} was there: {source}", socket.display())]
    Broken { socket: PathBuf, unit: String, source: io::Error },
    #[error("{}: systemd sent {what}, which is not understood", socket.display())]
    Malformed { socket: PathBuf, what: &'static str },
    #[error("{}: no answer from systemd within {after:?}, waiting for {what} for {unit}: look at `systemctl status` and `systemctl list-jobs`", socket.display())]
    Silent { socket: PathBuf, unit: String, what: &'static str, after: Duration },
    #[error("systemd refuses {call} of {unit}: {message} ({name})")]
    Error { call: &'static str, unit: String, name: String, message: String },
    #[error(
        "systemd could not start {unit}: its job ended as {result:?}; `journalctl -u {unit}` may say why"
    )]
    Job { unit: String, result: String },
}
