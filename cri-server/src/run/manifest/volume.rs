//! Volumes of the Pod.

use std::path::PathBuf;

use super::metadata::is_dns_name;
use super::projection::{self, Projected};
use super::strict_object::Object;
use super::{PullPolicy, container, quantity};

/// A volume by its name in the pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    pub name: String,
    pub source: VolumeSource,
}

/// The content of a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VolumeSource {
    /// A path of the host.
    HostPath { path: PathBuf, kind: HostPathKind },
    /// Empty at first, deleted with the pod.
    EmptyDir { memory: bool, size: Option<u64> },
    /// Files made of ConfigMaps, Secrets and fields of the Pod.
    Projected(Projected),
    /// The content of an image.
    Image { reference: String, pull: PullPolicy },
    /// A named volume, which outlives the pod.
    Claim { name: String, read_only: bool },
}

impl VolumeSource {
    /// Whether containers cannot write to it, even if their mounts allow it.
    pub fn is_read_only(&self) -> bool {
        match self {
            Self::Projected(_) | Self::Image { .. } => true,
            Self::Claim { read_only, .. } => *read_only,
            Self::HostPath { .. } | Self::EmptyDir { .. } => false,
        }
    }
}

/// The file that must exist at the path, or is made there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostPathKind {
    /// Not checked.
    Any,
    DirectoryOrCreate,
    Directory,
    FileOrCreate,
    File,
    Socket,
    CharDevice,
    BlockDevice,
}

const SOURCES: [&str; 8] = [
    "hostPath",
    "emptyDir",
    "configMap",
    "secret",
    "downwardAPI",
    "projected",
    "image",
    "persistentVolumeClaim",
];
/// They need a cluster or a driver.
const UNSUPPORTED: [&str; 23] = [
    "awsElasticBlockStore",
    "azureDisk",
    "azureFile",
    "cephfs",
    "cinder",
    "csi",
    "ephemeral",
    "fc",
    "flexVolume",
    "flocker",
    "gcePersistentDisk",
    "gitRepo",
    "glusterfs",
    "iscsi",
    "nfs",
    "photonPersistentDisk",
    "portworxVolume",
    "quobyte",
    "rbd",
    "scaleIO",
    "storageos",
    "vsphereVolume",
    "workloadRef",
];

/// Reads `volumes`.
pub fn read_all(spec: &Object<'_>) -> Vec<Volume> {
    let volumes: Vec<Volume> = spec.objects("volumes").iter().filter_map(read).collect();
    for (index, volume) in volumes.iter().enumerate() {
        if volumes[..index].iter().any(|other| other.name == volume.name) {
            spec.refuse(&format!("volumes[{index}].name"), format_args!("{:?} is there twice", volume.name));
        }
    }
    volumes
}

fn read(object: &Object<'_>) -> Option<Volume> {
    let name = object.required("name");
    if let Some(name) = name.as_ref().filter(|name| !is_dns_name(name)) {
        object.refuse("name", format_args!("{name:?} is not a name: lower-case letters, digits and '-'"));
    }
    let sources: Vec<_> = SOURCES.iter().filter_map(|kind| Some((*kind, object.object(kind)?))).collect();
    object.unsupported(&UNSUPPORTED);
    object.finish();
    let refused = UNSUPPORTED.iter().any(|kind| object.has(kind));
    match &sources[..] {
        [(kind, source)] => {
            let source = read_source(kind, source);
            Some(Volume { name: name?, source: source? })
        }
        [] if refused || object.keys().any(|key| key != "name") => None,
        [] => {
            object.refuse("name", format_args!("a volume needs a source: {}", SOURCES.join(", ")));
            None
        }
        _ => {
            object.refuse("name", "a volume has one source only");
            None
        }
    }
}

fn read_source(kind: &str, object: &Object<'_>) -> Option<VolumeSource> {
    let source = match kind {
        "hostPath" => read_host_path(object),
        "emptyDir" => Some(read_empty_dir(object)),
        "configMap" => Some(VolumeSource::Projected(projection::of_config_map(object))),
        "secret" => Some(VolumeSource::Projected(projection::of_secret(object))),
        "downwardAPI" => Some(VolumeSource::Projected(projection::of_downward_api(object))),
        "projected" => Some(VolumeSource::Projected(projection::of_projected(object))),
        "image" => {
            let reference = object.required("reference");
            let pull = container::pull_policy(object, "pullPolicy", reference.as_deref().unwrap_or_default());
            reference.map(|reference| VolumeSource::Image { reference, pull })
        }
        _ => {
            let name = object.required("claimName");
            if let Some(name) = name.as_ref().filter(|name| !is_dns_name(name)) {
                object.refuse(
                    "claimName",
                    format_args!("{name:?} is not a name: lower-case letters, digits, '-' and '.'"),
                );
            }
            let read_only = object.bool("readOnly").unwrap_or(false);
            name.map(|name| VolumeSource::Claim { name, read_only })
        }
    };
    object.finish();
    source
}

fn read_host_path(object: &Object<'_>) -> Option<VolumeSource> {
    let kinds = [
        ("", HostPathKind::Any),
        ("DirectoryOrCreate", HostPathKind::DirectoryOrCreate),
        ("Directory", HostPathKind::Directory),
        ("FileOrCreate", HostPathKind::FileOrCreate),
        ("File", HostPathKind::File),
        ("Socket", HostPathKind::Socket),
        ("CharDevice", HostPathKind::CharDevice),
        ("BlockDevice", HostPathKind::BlockDevice),
    ];
    let path = object.required("path");
    let kind = object.word("type", &kinds).unwrap_or(HostPathKind::Any);
    let path = PathBuf::from(path?);
    if !path.is_absolute() || path.components().any(|c| c == std::path::Component::ParentDir) {
        object.refuse("path", "must be an absolute path without \"..\"");
    }
    Some(VolumeSource::HostPath { path, kind })
}

fn read_empty_dir(object: &Object<'_>) -> VolumeSource {
    let memory = object.word("medium", &[("", false), ("Memory", true)]).unwrap_or(false);
    let size = object.quantity("sizeLimit").and_then(|text| {
        let size = quantity::bytes(&text);
        if size.is_none() {
            object.refuse("sizeLimit", format_args!("{text:?} is not a quantity"));
        }
        size
    });
    VolumeSource::EmptyDir { memory, size }
}
