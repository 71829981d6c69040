//! Spec files.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use serde::Deserialize;

use super::FileError;
use super::name::{is_device, is_kind};

/// The versions of the specification whose fields are all read here.
const VERSIONS: [&str; 9] = ["0.1.0", "0.2.0", "0.3.0", "0.4.0", "0.5.0", "0.6.0", "0.7.0", "0.8.0", "1.0.0"];
/// The next version has network devices, which are refused on use.
const WITH_NET_DEVICES: &str = "1.1.0";
/// Limit for one file, in bytes.
const MAX: u64 = 4 << 20;

/// One file. Unknown fields are refused: without them a part of a device would be missing.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct SpecFile {
    cdi_version: String,
    pub kind: String,
    #[serde(default, rename = "annotations")]
    _annotations: serde::de::IgnoredAny,
    pub devices: Vec<Device>,
    #[serde(default)]
    pub container_edits: ContainerEdits,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Device {
    pub name: String,
    #[serde(default, rename = "annotations")]
    _annotations: serde::de::IgnoredAny,
    #[serde(default)]
    pub container_edits: ContainerEdits,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct ContainerEdits {
    #[serde(default)]
    pub env: Vec<String>,
    #[serde(default)]
    pub device_nodes: Vec<RawDeviceNode>,
    #[serde(default)]
    pub mounts: Vec<Mount>,
    #[serde(default, rename = "additionalGids")]
    pub additional_gids: Vec<u32>,
    #[serde(default)]
    pub hooks: Vec<RawHook>,
    pub intel_rdt: Option<serde::de::IgnoredAny>,
    #[serde(default)]
    pub net_devices: Vec<serde::de::IgnoredAny>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct RawDeviceNode {
    pub path: String,
    #[serde(default)]
    pub host_path: String,
    #[serde(default, rename = "type")]
    pub kind: String,
    pub major: Option<i64>,
    pub minor: Option<i64>,
    pub file_mode: Option<u32>,
    #[serde(default)]
    pub permissions: String,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Mount {
    pub host_path: String,
    pub container_path: String,
    #[serde(default, rename = "type")]
    pub kind: String,
    #[serde(default)]
    pub options: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct RawHook {
    pub hook_name: String,
    pub path: String,
    #[serde(default)]
    pub args: Vec<String>,
    #[serde(default)]
    pub env: Vec<String>,
    /// Seconds.
    pub timeout: Option<i64>,
}

/// Reads and checks a file; its name tells JSON from YAML. None for other names.
pub(super) fn read(path: &Path) -> Option<Result<SpecFile, FileError>> {
    let is_json = match path.extension()?.to_str()? {
        "json" => true,
        "yaml" => false,
        _ => return None,
    };
    let spec = text(path).map_err(FileError::io(path)).and_then(|text| {
        let failed = |reason: String| FileError { path: path.to_owned(), reason };
        let spec: SpecFile = match is_json {
            true => serde_json::from_str(&text).map_err(|error| failed(error.to_string()))?,
            false => serde_saphyr::from_str(&text).map_err(|error| failed(error.to_string()))?,
        };
        check(&spec).map_err(failed)?;
        Ok(spec)
    });
    Some(spec)
}

fn text(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(MAX + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX { Err(io::ErrorKind::FileTooLarge.into()) } else { Ok(text) }
}

fn check(spec: &SpecFile) -> Result<(), String> {
    let version = spec.cdi_version.trim_start_matches('v');
    if !VERSIONS.contains(&version) && version != WITH_NET_DEVICES {
        return Err(format!("cdiVersion {:?} is not one of {VERSIONS:?}", spec.cdi_version));
    }
    if !is_kind(&spec.kind) {
        return Err(format!("kind {:?} is not a vendor and a class", spec.kind));
    }
    match spec.devices.iter().find(|device| !is_device(&device.name)) {
        Some(device) => Err(format!("{:?} is not the name of a device", device.name)),
        None => Ok(()),
    }
}
