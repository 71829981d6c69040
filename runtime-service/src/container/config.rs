//! The validated configuration that a client requested. It never changes after CreateContainer, except for
//! [`Resources`], which UpdateContainerResources replaces.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crisp_executor::user_namespace::IdMappings;
use serde::{Deserialize, Serialize};

use super::signal::Signal;
use crate::cdi::DeviceName;

/// One CreateContainer request after `convert`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerConfig {
    pub name: String,
    pub attempt: u32,
    pub image: ImageRequest,
    /// Replaces the image's ENTRYPOINT (and drops its CMD) when not empty.
    pub command: Vec<String>,
    /// Replaces the image's CMD when not empty.
    pub args: Vec<String>,
    /// Absolute. None for the image's.
    pub working_dir: Option<PathBuf>,
    /// In the order of the request; a later value overrides an earlier one of the same name.
    pub envs: Vec<(String, String)>,
    pub mounts: Vec<Mount>,
    pub devices: Vec<Device>,
    /// From the field of the request and from its annotations, each once.
    #[serde(default)]
    pub cdi_devices: Vec<DeviceName>,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    /// Relative to the pod's log folder. None: the container's output is dropped.
    pub log_path: Option<PathBuf>,
    pub stdin: bool,
    pub stdin_once: bool,
    pub tty: bool,
    pub stop_signal: Option<Signal>,
    pub resources: Resources,
    pub security: Security,
}

/// The image as the client named it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageRequest {
    /// A reference, a digest or an image id.
    pub image: String,
    /// The image in the user's pod manifest, for display. May be empty.
    pub user_specified: String,
    pub annotations: BTreeMap<String, String>,
}

/// A host path, or an image, that is mounted into the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    pub container_path: PathBuf,
    /// Empty where `image` is mounted.
    pub host_path: PathBuf,
    #[serde(default)]
    pub image: Option<MountedImage>,
    pub readonly: bool,
    pub recursive_readonly: bool,
    pub propagation: Propagation,
    /// The mappings from the owners on disk to the owners in the container. None for no mapping.
    #[serde(default)]
    pub mappings: Option<IdMappings>,
    /// Restrictions for its files: `noexec`, `nodev`, `nosuid`.
    #[serde(default)]
    pub options: Vec<String>,
}

/// An image as a volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountedImage {
    pub request: ImageRequest,
    /// The part of the image that is mounted; empty for all of it.
    pub sub_path: String,
}

/// The direction in which mount events propagate between host and container below a [`Mount`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Propagation {
    Private,
    HostToContainer,
    Bidirectional,
}

/// A host device node that is made available in the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    pub container_path: PathBuf,
    pub host_path: PathBuf,
    /// Some of `r`, `w`, `m`.
    pub permissions: String,
}

/// Limits. None or empty: not requested.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resources {
    /// Microseconds.
    pub cpu_period: Option<u64>,
    /// Microseconds per period; -1: unlimited.
    pub cpu_quota: Option<i64>,
    pub cpu_shares: Option<u64>,
    /// Bytes; -1: unlimited.
    pub memory_limit: Option<i64>,
    /// Bytes of memory and swap together; -1: unlimited.
    pub memory_swap_limit: Option<i64>,
    pub oom_score_adj: i32,
    pub cpuset_cpus: Option<String>,
    pub cpuset_mems: Option<String>,
    /// Page size as cgroup files name it (`2MB`, `1GB`) and the limit in bytes.
    pub hugepages: Vec<(String, u64)>,
    /// cgroup v2 file names and values, unchanged.
    pub unified: BTreeMap<String, String>,
}

impl Resources {
    /// Whether CPU time is limited, so that the kernel counts periods.
    #[must_use]
    pub fn has_quota(&self) -> bool {
        self.cpu_quota.is_some_and(|quota| quota > 0)
    }
}

/// The users and capabilities of the processes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Security {
    pub privileged: bool,
    pub user: UserRequest,
    pub group: Option<u32>,
    pub supplemental_groups: Vec<u32>,
    pub groups_policy: GroupsPolicy,
    pub add_capabilities: CapabilityNames,
    pub drop_capabilities: CapabilityNames,
    /// Names with the CAP_ prefix.
    pub ambient_capabilities: Vec<String>,
    pub no_new_privileges: bool,
    pub readonly_rootfs: bool,
    pub masked_paths: Vec<String>,
    pub readonly_paths: Vec<String>,
    pub seccomp: SeccompRequest,
    pub apparmor: AppArmorRequest,
    pub pid: PidNamespaceRequest,
    #[serde(default)]
    pub user_namespace: UserNamespaceRequest,
    /// Requested by name; must be the pod's network mode as well.
    pub host_network: bool,
    pub host_ipc: bool,
}

/// Capabilities to add or to drop.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CapabilityNames {
    /// `ALL` was among them.
    pub all: bool,
    /// Names with the CAP_ prefix.
    pub names: Vec<String>,
}

/// The user of the first process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum UserRequest {
    /// The image's USER, or root.
    Image,
    Id(u32),
    Name(String),
}

/// Whether the user's groups in the image's /etc/group are added to those requested.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum GroupsPolicy {
    Merge,
    Strict,
}

/// The seccomp profile of the processes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum SeccompRequest {
    RuntimeDefault,
    Unconfined,
    /// A profile file (absolute path) in the runtime-spec's JSON.
    Localhost(PathBuf),
}

/// The AppArmor profile of the processes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum AppArmorRequest {
    Unspecified,
    RuntimeDefault,
    Unconfined,
    /// A profile that is loaded on the host.
    Localhost(String),
}

/// The user namespace that the client requested.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum UserNamespaceRequest {
    #[default]
    OfPod,
    Host,
    /// The pod's own, with these mappings.
    Own(IdMappings),
}

/// The PID namespace that the client requested. The configuration of the pod decides how it is resolved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum PidNamespaceRequest {
    /// As in the configuration of the pod.
    OfPod,
    /// The pod's shared one.
    Pod,
    Own,
    Host,
    /// The namespace of another container of the same pod, named by id or unique prefix.
    Target(String),
}
