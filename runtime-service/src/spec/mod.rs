//! CRI config + image config → OCI runtime spec.
//!
//! ```text
//!   ContainerConfig ─┐
//!   image config ────┼─> build() ─> Spec ─> bundle/config.json, and the executor's compile
//!   PodInputs ────────┤
//!   Host ───────┘
//! ```

pub mod capabilities;
mod cdi;
pub mod command;
pub mod copy_up;
pub mod devices;
pub mod environment;
pub mod host;
pub mod limits;
pub mod mounts;
pub mod ulimits;
pub mod user;

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;

use crisp_executor::apparmor::AppArmorError;
use crisp_executor::cgroup::Mode;
use crisp_executor::plan::PidNamespace;
use crisp_executor::seccomp::{SeccompError, load_profile, runtime_default};
use crisp_executor::user_namespace::IdMappings;
use oci_spec::runtime::{
    Capabilities, Linux, LinuxNamespace, LinuxNamespaceType, LinuxSeccomp, Process, Root, Spec,
};

pub(crate) use self::cdi::hooks as cdi_hooks;
use self::host::Host;
use crate::cdi::Edits;
use crate::container::config::{AppArmorRequest, ContainerConfig, Resources, SeccompRequest};
use crate::container::{ImageProcess, User};

/// The reason why no spec can be built. Fields are named as in the CRI request.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    #[error(
        "no command to run: the image has neither ENTRYPOINT nor CMD, and neither config.command nor config.args is set"
    )]
    NoCommand,
    #[error("the name of the program to run is empty")]
    EmptyProgram,
    #[error("config.linux.security_context.capabilities: this host does not have {name}")]
    Capability { name: String },
    #[error("{field}: {path:?}: {source}")]
    Device { field: String, path: PathBuf, source: io::Error },
    #[error("{field}: {path:?} is not a device and holds none")]
    NotADevice { field: String, path: PathBuf },
    #[error("config.linux.security_context.seccomp: {0}")]
    Seccomp(#[from] SeccompError),
    #[error("config.linux.security_context.apparmor: {0}")]
    AppArmor(#[from] AppArmorError),
    #[error(
        "config.linux.security_context: {what} {id} of the container's process is not mapped in the pod's user namespace (see its userns_options)"
    )]
    NotMapped { what: &'static str, id: u32 },
    #[error(transparent)]
    TooLarge(#[from] environment::TooLarge),
    #[error("config.annotations[\"crisp/ulimits\"]: {0}")]
    Ulimits(String),
    #[error("the image's working folder {path:?} is not an absolute path")]
    WorkingDir { path: String },
}

/// The inputs from the container's pod.
#[derive(Debug, Clone)]
pub struct PodInputs {
    pub hostname: String,
    /// The pod's own hosts, resolv.conf and hostname, with their mount points.
    pub files: Vec<(PathBuf, &'static str)>,
    pub host_network: bool,
    pub host_ipc: bool,
    /// The mappings of its own user namespace.
    pub user: Option<IdMappings>,
    pub monitor_pid: i32,
    /// The cgroup of the container itself.
    pub cgroup: String,
}

/// All inputs of [`build`].
#[derive(Debug)]
pub struct Inputs<'a> {
    pub config: &'a ContainerConfig,
    /// The limits in force, which may differ from those in `config`.
    pub resources: &'a Resources,
    pub image: &'a ImageProcess,
    pub user: &'a User,
    pub pod: &'a PodInputs,
    pub host: &'a Host,
    /// For a target, the process id of its first process.
    pub pid: PidNamespace<i32>,
    /// Source and target of the image's VOLUMEs.
    pub volumes: &'a [(PathBuf, PathBuf)],
    /// The edits of its CDI devices.
    pub cdi: &'a Edits,
    /// The filter with which the container was created, instead of the one that the request means now.
    pub seccomp: Option<LinuxSeccomp>,
    pub annotations: HashMap<String, String>,
}

/// Builds the spec. Blocks: reads host devices and may read a seccomp profile.
///
/// # Errors
/// [`SpecError`] naming the field.
pub fn build(inputs: &Inputs<'_>) -> Result<Spec, SpecError> {
    let bounding = capabilities::bounding(&inputs.config.security, &inputs.host.capabilities)?;
    let mut root = Root::default();
    root.set_path("rootfs".into()).set_readonly(Some(inputs.config.security.readonly_rootfs));
    let mut mounts = mounts::resolve(&mounts::Inputs {
        privileged: inputs.config.security.privileged,
        readonly_rootfs: inputs.config.security.readonly_rootfs,
        host_ipc: inputs.pod.host_ipc,
        user: inputs.pod.user.as_ref(),
        pod_files: &inputs.pod.files,
        volumes: inputs.volumes,
        requested: &inputs.config.mounts,
    });
    cdi::add_mounts(&mut mounts, &inputs.cdi.mounts);
    let mut spec = Spec::default();
    spec.set_version("1.2.0".to_owned())
        .set_hostname(None)
        .set_root(Some(root))
        .set_mounts(Some(mounts))
        .set_process(Some(process(inputs, &bounding)?))
        .set_annotations(Some(inputs.annotations.clone()))
        .set_linux(Some(linux(inputs, &bounding)?))
        .set_hooks(cdi::hooks(&inputs.cdi.hooks));
    Ok(spec)
}

/// Only the process and its seccomp filter: the inputs of a command that runs in the container.
///
/// # Errors
/// [`SpecError`] naming the field.
pub fn build_process(inputs: &Inputs<'_>) -> Result<(Process, Option<LinuxSeccomp>), SpecError> {
    let bounding = capabilities::bounding(&inputs.config.security, &inputs.host.capabilities)?;
    Ok((process(inputs, &bounding)?, seccomp(inputs, &bounding)?))
}

fn process(inputs: &Inputs<'_>, bounding: &Capabilities) -> Result<Process, SpecError> {
    let (config, image) = (inputs.config, inputs.image);
    user::check_mapped(inputs.user, inputs.pod.user.as_ref())?;
    let args = command::resolve(&image.entrypoint, &image.cmd, &config.command, &config.args)?;
    let requested = [&config.envs[..], &inputs.cdi.env].concat();
    let environment = environment::resolve(&environment::Sources {
        tty: config.tty,
        hostname: &inputs.pod.hostname,
        image: &image.env,
        request: &requested,
        home: &inputs.user.home,
    });
    environment::check(&args, &environment)?;
    let own_limits = ulimits::of_annotations(&config.annotations).map_err(SpecError::Ulimits)?;
    ulimits::check(&own_limits, inputs.host.highest_limit).map_err(SpecError::Ulimits)?;
    let mut process = Process::default();
    process
        .set_terminal(Some(config.tty))
        .set_user(user::to_spec(inputs.user))
        .set_args(Some(args))
        .set_env(Some(environment))
        .set_cwd(working_dir(config, image)?)
        .set_capabilities(Some(capabilities::sets(bounding, &config.security)))
        .set_rlimits(Some(ulimits::with(&inputs.host.rlimits, own_limits)))
        .set_no_new_privileges(Some(config.security.no_new_privileges))
        .set_apparmor_profile(apparmor(inputs)?)
        .set_oom_score_adj(Some(inputs.resources.oom_score_adj));
    Ok(process)
}

fn working_dir(config: &ContainerConfig, image: &ImageProcess) -> Result<PathBuf, SpecError> {
    if let Some(path) = &config.working_dir {
        return Ok(path.clone());
    }
    match image.working_dir.as_deref().unwrap_or_default() {
        "" => Ok("/".into()),
        path if path.starts_with('/') => Ok(path.into()),
        path => Err(SpecError::WorkingDir { path: path.to_owned() }),
    }
}

fn apparmor(inputs: &Inputs<'_>) -> Result<Option<String>, SpecError> {
    let security = &inputs.config.security;
    let apparmor = &inputs.host.apparmor;
    match &security.apparmor {
        AppArmorRequest::Unconfined => Ok(None),
        // The default profile would remove the purpose of a privileged container. The operator's own profile
        // is applied.
        AppArmorRequest::Unspecified | AppArmorRequest::RuntimeDefault if security.privileged => Ok(None),
        AppArmorRequest::Unspecified | AppArmorRequest::RuntimeDefault => {
            Ok(apparmor.default_profile()?.map(str::to_owned))
        }
        AppArmorRequest::Localhost(name) => Ok(Some(apparmor.loaded_profile(name)?.to_owned())),
    }
}

fn linux(inputs: &Inputs<'_>, bounding: &Capabilities) -> Result<Linux, SpecError> {
    let security = &inputs.config.security;
    let mut devices = devices::resolve(&devices::Inputs {
        privileged: security.privileged,
        user_namespace: inputs.pod.user.is_some(),
        requested: &inputs.config.devices,
    })?;
    cdi::add_nodes(&mut devices, &inputs.cdi.nodes, inputs.user)?;
    let hidden = |paths: &Vec<String>| if security.privileged { vec![] } else { paths.clone() };
    let mut linux = Linux::default();
    linux
        .set_resources(Some(limits::resources(inputs.resources, devices.rules)))
        .set_cgroups_path(Some(inputs.pod.cgroup.clone().into()))
        .set_namespaces(Some(namespaces(inputs)))
        .set_devices(Some(devices.nodes))
        .set_seccomp(seccomp(inputs, bounding)?)
        .set_masked_paths(Some(hidden(&security.masked_paths)))
        .set_readonly_paths(Some(hidden(&security.readonly_paths)))
        .set_rootfs_propagation(mounts::root_propagation(&inputs.config.mounts).map(str::to_owned));
    if let Some(mappings) = &inputs.pod.user {
        linux
            .set_uid_mappings(Some(user::mappings(&mappings.uids)))
            .set_gid_mappings(Some(user::mappings(&mappings.gids)));
    }
    Ok(linux)
}

fn seccomp(inputs: &Inputs<'_>, bounding: &Capabilities) -> Result<Option<LinuxSeccomp>, SpecError> {
    match &inputs.seccomp {
        Some(kept) => Ok(Some(kept.clone())),
        None => seccomp_profile(inputs.config, bounding),
    }
}

/// The filter of a container's processes. `bounding` is their bounding set.
///
/// # Errors
/// A profile file cannot be read.
pub fn seccomp_profile(
    config: &ContainerConfig,
    bounding: &Capabilities,
) -> Result<Option<LinuxSeccomp>, SpecError> {
    if config.security.privileged {
        return Ok(None);
    }
    match &config.security.seccomp {
        SeccompRequest::Unconfined => Ok(None),
        SeccompRequest::RuntimeDefault => Ok(Some(runtime_default(bounding))),
        SeccompRequest::Localhost(path) => Ok(Some(load_profile(path, bounding)?)),
    }
}

/// Without a path: a new one. With the monitor's path: the pod's. Not listed: the host's.
fn namespaces(inputs: &Inputs<'_>) -> Vec<LinuxNamespace> {
    let namespace = |typ, path: Option<String>| {
        let mut namespace = LinuxNamespace::default();
        namespace.set_typ(typ).set_path(path.map(Into::into));
        namespace
    };
    let of = |pid: i32, name: &str| Some(format!("/proc/{pid}/ns/{name}"));
    let monitor = inputs.pod.monitor_pid;
    let mut list = vec![namespace(LinuxNamespaceType::Mount, None)];
    if inputs.pod.user.is_some() {
        list.push(namespace(LinuxNamespaceType::User, None));
    }
    // Agents on the node look up cgroups of other processes by the host's paths.
    let agent = inputs.config.security.privileged && inputs.host.cgroups == Mode::V2;
    if !agent || inputs.pod.user.is_some() {
        list.push(namespace(LinuxNamespaceType::Cgroup, None));
    }
    if !inputs.pod.host_network {
        list.push(namespace(LinuxNamespaceType::Network, of(monitor, "net")));
        list.push(namespace(LinuxNamespaceType::Uts, of(monitor, "uts")));
    }
    if !inputs.pod.host_ipc {
        list.push(namespace(LinuxNamespaceType::Ipc, of(monitor, "ipc")));
    }
    match inputs.pid {
        PidNamespace::Own => list.push(namespace(LinuxNamespaceType::Pid, None)),
        PidNamespace::Pod => list.push(namespace(LinuxNamespaceType::Pid, of(monitor, "pid_for_children"))),
        PidNamespace::Target(pid) => list.push(namespace(LinuxNamespaceType::Pid, of(pid, "pid"))),
        PidNamespace::Host => {}
    }
    list
}

#[cfg(test)]
pub(crate) mod tests;
