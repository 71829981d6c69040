//! OCI spec to plan: everything is validated, and opened, here; errors name the spec's field.

use std::os::fd::OwnedFd;
use std::time::Duration;

use oci_spec::runtime::{LinuxSeccomp, Process, Spec};

use crate::cgroup::{CgroupError, Cgroups, JoinFds};
use crate::plan;
use crate::seccomp::SeccompError;
use crate::source::SourceError;

/// What the spec cannot say: descriptors, and the pod that the container is in.
#[derive(Debug)]
pub struct Inputs {
    /// The root file system, detached: from [`crate::rootfs::assemble`].
    pub root: OwnedFd,
    pub cgroups: Cgroups,
    pub cgroup: JoinFds,
    /// Must agree with the spec's pid namespace: `Own` = listed without a path, `Host` = not listed,
    /// `Pod` and `Target` = listed with a path.
    pub pid: PidInput,
    /// A mount on /dev/shm of type tmpfs becomes the pod's shared one.
    pub pod_shm: bool,
    /// For opening all bind sources together.
    pub source_deadline: Duration,
}

/// The PID namespace to be born into.
#[derive(Debug)]
pub enum PidInput {
    Own,
    Pod,
    Host,
    /// The one of this pidfd's process.
    Target(OwnedFd),
}

/// A plan and the descriptors that it indexes.
#[derive(Debug)]
pub struct Compiled {
    pub plan: plan::Plan,
    pub fds: Vec<OwnedFd>,
}

/// What is wrong with a spec.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// `field` as in config.json: `process.args`, `mounts[3].destination`.
    #[error("{field}: {reason}")]
    Invalid { field: String, reason: String },
    /// Well-formed, but nothing here does it.
    #[error("{field}: is not supported{hint}")]
    Unsupported { field: String, hint: String },
    #[error("{field}: {source}")]
    Source { field: String, source: SourceError },
    #[error(transparent)]
    Seccomp(#[from] SeccompError),
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
}

/// Compiles a container's spec. Blocking, up to `source_deadline`: opens the sources of bind mounts.
///
/// # Errors
/// Names the field of the spec.
pub fn compile(_spec: &Spec, _inputs: Inputs) -> Result<Compiled, CompileError> {
    Err(CompileError::Unsupported { field: "spec".to_owned(), hint: String::new() })
}

/// Compiles a process that is exec'd into a running container.
///
/// # Errors
/// Names the field of the spec.
pub fn compile_process(
    _process: &Process,
    _seccomp: Option<&LinuxSeccomp>,
) -> Result<plan::Process, CompileError> {
    Err(CompileError::Unsupported { field: "process".to_owned(), hint: String::new() })
}
