//! The record of a container, from its creation to its deletion.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

use crisp_executor::cgroup::CgroupPath;
use crisp_executor::ids::ContainerId;
use crisp_executor::user_namespace::IdMappings;
use crisp_operation::record::Record as Kept;
use serde::{Deserialize, Serialize};

use super::id::OciId;
use super::init::Init;

/// state.json of a container. It is written before the cgroup is made, so that the remains of a killed
/// `create` can be found.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Record {
    pub id: OciId,
    /// The id of the container in the executor, also the name of its session keyring. It is random, as containers
    /// below different `--root`s may have the same id.
    #[serde(default = "ContainerId::random")]
    pub executor_id: ContainerId,
    /// From its config.json.
    pub oci_version: String,
    pub bundle: PathBuf,
    pub rootfs: PathBuf,
    /// Nanoseconds since 1970.
    pub created: i64,
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
    pub cgroup: CgroupPath,
    /// Whether all its processes end with the first one.
    pub own_pid_namespace: bool,
    /// The mappings of its user namespace.
    #[serde(default)]
    pub mappings: Option<IdMappings>,
    /// None until there is a first process.
    #[serde(default)]
    pub init: Option<Init>,
    /// Whether its create is at work, or was killed: its first process may not have its root yet.
    #[serde(default)]
    pub creating: bool,
}

impl Kept for Record {
    const KIND: &'static str = "record of an OCI container";
}

impl Record {
    /// The annotations of a spec, sorted.
    pub fn annotations_of(annotations: Option<&HashMap<String, String>>) -> BTreeMap<String, String> {
        annotations.into_iter().flatten().map(|(name, value)| (name.clone(), value.clone())).collect()
    }
}
