//! Volumes: folders of the host, and empty ones that live as long as the pod.

use std::path::PathBuf;

use super::dns_name::is_dns_name;
use super::object::Object;
use super::quantity;

/// A volume by its name in the pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    pub name: String,
    pub source: VolumeSource,
}

/// What is in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VolumeSource {
    /// A path of the host.
    HostPath { path: PathBuf, kind: HostPathKind },
    /// Empty at first, deleted with the pod.
    EmptyDir { memory: bool, size: Option<u64> },
}

/// What must be at the path, or is made there.
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
    let host_path = object.object("hostPath").and_then(|o| read_host_path(&o));
    let empty_dir = object.object("emptyDir").map(|o| read_empty_dir(&o));
    object.finish();
    let unknown = !object.keys().any(|key| key != "name");
    if unknown {
        object.refuse("name", "a volume needs a source: hostPath or emptyDir");
    }
    let source = host_path.or(empty_dir)?;
    Some(Volume { name: name?, source })
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
    object.finish();
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
    // Only a file system of its own can enforce a limit.
    if size.is_some() && !memory {
        object.refuse("sizeLimit", "not supported by crisp run yet, except with medium: Memory");
    }
    object.finish();
    VolumeSource::EmptyDir { memory, size }
}
