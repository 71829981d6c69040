//! The reasons why systemd did not make a scope.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crisp_executor::cgroup::CgroupPath;

/// The requirement of the systemd driver that a host does not meet.
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
    #[error(
        "{}: this server is in another PID namespace than systemd, which would take its process ids for those of other processes: run it in the host's PID namespace, or use cgroup-driver = cgroupfs", socket.display()
    )]
    OtherPids { socket: PathBuf },
    #[error(
        "this server sees another cgroup tree than systemd, which is in {found:?} and not in {expected}: run it with the host's cgroup namespace and /sys/fs/cgroup, or use cgroup-driver = cgroupfs"
    )]
    OtherTree { expected: &'static str, found: String },
    #[error(transparent)]
    Unreachable(SystemdError),
}

/// systemd did not execute a request.
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
    #[error("{}: no answer from systemd within {seconds:.1} s, waiting for {what} for {unit}: look at `systemctl status` and `systemctl list-jobs`", socket.display())]
    Silent { socket: PathBuf, unit: String, what: &'static str, seconds: f32 },
    #[error(
        "{unit} waited {after:?} for systemd to make {starts} other scopes: look at `systemctl status` and `systemctl list-jobs`"
    )]
    Crowded { unit: String, starts: usize, after: Duration },
    #[error("systemd refuses {call} of {unit}: {message} ({name})")]
    Error { call: &'static str, unit: String, name: String, message: String },
    #[error(
        "systemd could not start {unit}: its job ended as {result:?}; `journalctl -u {unit}` may say why"
    )]
    Job { unit: String, result: String },
    #[error(
        "the process {pid} that held {unit} was ended by another program, and systemd has removed the scope: `journalctl -u {unit}` may say why"
    )]
    HolderEnded { unit: String, pid: i32 },
    #[error(
        "systemd put {unit} into cgroup {found}, and this server expects it in {expected}: name another slice as the pod's cgroup parent, or use cgroup-driver = cgroupfs"
    )]
    Elsewhere { unit: String, expected: CgroupPath, found: String },
}
