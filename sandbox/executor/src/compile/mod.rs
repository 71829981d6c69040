//! Converts an OCI spec to a plan: validates and opens everything; errors name the field of the spec.
//!
//! ```text
//!  process      --process.rs, capabilities.rs, rlimits.rs--> plan::Process
//!  mounts       --mounts.rs, options.rs--------------------> plan::Mount + opened sources
//!  hooks        --hooks.rs---------------------------------> plan::Hooks
//!  linux.*      --namespaces.rs, devices.rs, field.rs------> the rest of the plan
//! ```
//!
//! A field that is not supported is an error, never ignored. `linux.resources` is for
//! [`crate::cgroup::Resources`], `linux.cgroupsPath` for its caller, `hostname` for the pod.

pub mod capabilities;
mod devices;
mod field;
mod hooks;
mod id_mappings;
mod mounts;
mod namespaces;
mod options;
mod process;
mod rlimits;

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use oci_spec::runtime::{Linux, LinuxNamespace, LinuxSeccomp, Process, Spec};

use crate::cgroup::{CgroupError, Cgroups, JoinFds};
use crate::plan::{self, FdIndex, PidNamespace};
use crate::seccomp::SeccompError;
use crate::source::SourceError;
use crate::user_namespace::{IdMappings, UserNamespace};
pub use capabilities::mask as capability_mask;
use field::{invalid, paths, refuse, unsupported};
pub use hooks::{HookInputs, needs_pause};
pub use options::CREATE_SOURCE;

/// The inputs that are not in the spec: descriptors, and the pod of the container.
#[derive(Debug)]
pub struct Inputs<'a> {
    /// The root file system, detached: from [`crate::rootfs::assemble`].
    pub root: OwnedFd,
    pub cgroups: Cgroups,
    pub cgroup: JoinFds,
    /// Must agree with the spec's pid namespace: `Own` = listed without a path, `Host` = not listed,
    /// `Pod` and `Target` = listed with a path.
    pub pid: PidNamespace<OwnedFd>,
    /// The pod's user namespace, which the spec must list without a path, with the same mappings.
    pub user: Option<&'a UserNamespace>,
    /// Sources of bind mounts that are not host paths, as detached mounts, by destination.
    pub mounts: Vec<(PathBuf, OwnedFd)>,
    /// A mount on /dev/shm of type tmpfs becomes the pod's shared one.
    pub pod_shm: bool,
    /// The container is in no pod: its network, IPC and UTS namespaces are new if the spec lists them without
    /// a path, and the host's if it does not list them; see [`crate::run::detached`]. In a pod they have
    /// paths.
    pub standalone: bool,
    /// Needed if the spec has hooks that its start takes part in.
    pub hooks: Option<HookInputs<'a>>,
    /// Time limit for opening all bind sources.
    pub source_deadline: Duration,
}

/// A plan and the descriptors to which it refers.
#[derive(Debug)]
pub struct Compiled {
    pub plan: plan::Plan,
    pub fds: Vec<OwnedFd>,
}

/// An error in a spec.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// `field` as in config.json: `process.args`, `mounts[3].destination`.
    #[error("{field}: {reason}")]
    Invalid { field: String, reason: String },
    /// The field is valid, but not supported.
    #[error("{field}: is not supported{hint}")]
    Unsupported { field: String, hint: String },
    #[error("{field}: {source}")]
    Source { field: String, source: SourceError },
    #[error(transparent)]
    Seccomp(#[from] SeccompError),
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
}

/// The descriptors of a plan.
#[derive(Default)]
struct Descriptors(Vec<OwnedFd>);

impl Descriptors {
    fn add(&mut self, fd: OwnedFd) -> Result<FdIndex, CompileError> {
        let index =
            u16::try_from(self.0.len()).map_err(|_| invalid("mounts", "there are more than 65536"))?;
        self.0.push(fd);
        Ok(FdIndex(index))
    }
}

/// Compiles a container's spec. Blocks up to `source_deadline`: opens the sources of bind mounts.
///
/// # Errors
/// The error names the field of the spec.
pub fn compile(spec: &Spec, inputs: Inputs<'_>) -> Result<Compiled, CompileError> {
    let linux = spec.linux().as_ref().ok_or_else(|| invalid("linux", "missing"))?;
    refuse_unsupported(spec, linux)?;
    let process = spec.process().as_ref().ok_or_else(|| invalid("process", "missing"))?;
    let process = compile_process(process, linux.seccomp().as_ref(), inputs.user.map(|user| &user.mappings))?;

    let mut fds = Descriptors::default();
    let root = plan::Root {
        mount: fds.add(inputs.root)?,
        readonly: spec.root().as_ref().and_then(|root| root.readonly()).unwrap_or(false),
        shared: root_shared(linux)?,
    };
    let cgroup = join(inputs.cgroup, &mut fds)?;
    let namespaces =
        namespaces::namespaces(listed_namespaces(linux), inputs.pid, inputs.standalone, &mut fds)?;
    id_mappings::agree(linux, namespaces.user, inputs.user)?;
    let context = mounts::Context {
        cgroups: &inputs.cgroups,
        cgroup_namespace: namespaces.cgroup,
        pod_shm: inputs.pod_shm,
        user: inputs.user,
        deadline: inputs.source_deadline,
    };
    let mounts =
        mounts::mounts(spec.mounts().as_deref().unwrap_or_default(), inputs.mounts, &context, &mut fds)?;
    let devices = devices::devices(linux.devices().as_deref().unwrap_or_default(), &mounts)?;
    if let Some(user) = inputs.user {
        id_mappings::check_devices(&devices, &user.mappings)?;
    }
    let hooks = hooks::hooks(spec, inputs.hooks, &mut fds)?;
    let plan = plan::Plan {
        process,
        root,
        devices,
        mounts,
        masked_paths: paths("linux.maskedPaths", linux.masked_paths().as_ref())?,
        readonly_paths: paths("linux.readonlyPaths", linux.readonly_paths().as_ref())?,
        pid: namespaces.pid,
        cgroup_namespace: namespaces.cgroup,
        cgroup,
        hooks,
    };
    Ok(Compiled { plan, fds: fds.0 })
}

/// Compiles a process for an exec in a running container. `mappings` are those of the pod's user namespace.
///
/// # Errors
/// The error names the field of the spec.
pub fn compile_process(
    process: &Process,
    seccomp: Option<&LinuxSeccomp>,
    mappings: Option<&IdMappings>,
) -> Result<plan::Process, CompileError> {
    let process = process::process(process, seccomp)?;
    mappings.map_or(Ok(()), |mappings| id_mappings::check_process(&process, mappings))?;
    Ok(process)
}

/// Compiles the cgroup part of a plan or of an exec; its descriptors are appended to `fds`.
///
/// # Errors
/// When there are more descriptors than a plan can refer to.
pub fn compile_join(join_fds: JoinFds, fds: &mut Vec<OwnedFd>) -> Result<plan::CgroupJoin, CompileError> {
    let mut all = Descriptors(std::mem::take(fds));
    let joined = join(join_fds, &mut all);
    *fds = all.0;
    joined
}

fn join(given: JoinFds, fds: &mut Descriptors) -> Result<plan::CgroupJoin, CompileError> {
    Ok(plan::CgroupJoin {
        v2: given.v2.map(|fd| fds.add(fd)).transpose()?,
        v1_tasks: given.v1_tasks.into_iter().map(|fd| fds.add(fd)).collect::<Result<_, _>>()?,
        oom_events: given.oom_events.map(|fd| fds.add(fd)).transpose()?,
    })
}

fn listed_namespaces(linux: &Linux) -> &[LinuxNamespace] {
    linux.namespaces().as_deref().unwrap_or_default()
}

fn root_shared(linux: &Linux) -> Result<bool, CompileError> {
    match linux.rootfs_propagation().as_deref() {
        // The root is a mount of the container alone: private and slave are the same.
        None | Some("" | "private" | "rprivate" | "slave" | "rslave") => Ok(false),
        Some("shared" | "rshared") => Ok(true),
        Some(other) => Err(unsupported(format!("linux.rootfsPropagation: {other:?}"), "")),
    }
}

fn refuse_unsupported(spec: &Spec, linux: &Linux) -> Result<(), CompileError> {
    refuse(spec.windows().is_some(), "windows", "")?;
    refuse(spec.vm().is_some(), "vm", "")?;
    refuse(spec.solaris().is_some(), "solaris", "")?;
    refuse(spec.zos().is_some(), "zos", "")?;
    refuse(spec.domainname().is_some(), "domainname", "")?;
    let sysctls = linux.sysctl().as_ref().is_some_and(|s| !s.is_empty());
    refuse(sysctls, "linux.sysctl", "the pod has them, not the container")?;
    let label = linux.mount_label().as_deref().is_some_and(|l| !l.is_empty());
    refuse(label, "linux.mountLabel", "")?;
    refuse(linux.intel_rdt().is_some(), "linux.intelRdt", "")?;
    refuse(linux.memory_policy().is_some(), "linux.memoryPolicy", "")?;
    refuse(linux.personality().is_some(), "linux.personality", "")?;
    let offsets = linux.time_offsets().as_ref().is_some_and(|o| !o.is_empty());
    refuse(offsets, "linux.timeOffsets", "time namespaces")?;
    let net = linux.net_devices().as_ref().is_some_and(|n| !n.is_empty());
    refuse(net, "linux.netDevices", "")
}

#[cfg(test)]
mod tests;
