//! Writes files from ConfigMaps, Secrets and fields of the Pod.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use super::super::manifest::{Data, FieldFile, FieldValue, KeyFile, Projected, Projection};
use super::super::pod_fields::resource;
use super::VolumeRequest;
use super::folder::{mount_memory, set_owner};

/// The files of a Secret are in memory. The record of a supervised pod has its Secrets on disk, readable only
/// by root.
const MOST_MEMORY: u64 = 64 << 20;

struct Content {
    path: String,
    bytes: Vec<u8>,
    mode: u32,
}

/// Fills the folder of a volume. A later source replaces files of an earlier one.
///
/// # Errors
/// The file system's error.
pub fn write(folder: &Path, projected: &Projected, request: &VolumeRequest) -> io::Result<()> {
    let is_secret = |source: &Projection| matches!(source, Projection::Keys { is_secret: true, .. });
    if projected.sources.iter().any(is_secret) {
        mount_memory(folder, Some(MOST_MEMORY), 0o755, None)?;
    }
    let group = request.pod.security.fs_group;
    for content in projected.sources.iter().flat_map(|source| contents(source, projected.mode, request)) {
        write_file(folder, &content, group)?;
    }
    set_owner(folder, 0o755, group)
}

fn contents(source: &Projection, usual: u32, request: &VolumeRequest) -> Vec<Content> {
    match source {
        Projection::Keys { name, is_secret, items, .. } => {
            let Some(data) = request.objects.data(&request.pod.namespace, name, *is_secret) else {
                return Vec::new();
            };
            let all = || {
                let file = |(key, value): (&str, &[u8])| Content {
                    path: key.to_owned(),
                    bytes: value.to_vec(),
                    mode: usual,
                };
                data.iter().map(file).collect()
            };
            let chosen = |items: &Vec<_>| chosen(items, data, usual);
            items.as_ref().map_or_else(all, chosen)
        }
        Projection::Fields(fields) => {
            let file = |field: &FieldFile| Content {
                path: field.path.clone(),
                bytes: match &field.value {
                    FieldValue::Field(path) => request.fields.text(path),
                    FieldValue::Resource(wanted) => resource(&request.pod, None, wanted).to_string(),
                }
                .into_bytes(),
                mode: field.mode.unwrap_or(usual),
            };
            fields.iter().map(file).collect()
        }
    }
}

fn chosen(items: &[KeyFile], data: &Data, usual: u32) -> Vec<Content> {
    let file = |item: &KeyFile| {
        let bytes = data.get(&item.key)?.to_vec();
        Some(Content { path: item.path.clone(), bytes, mode: item.mode.unwrap_or(usual) })
    };
    items.iter().filter_map(file).collect()
}

fn write_file(folder: &Path, content: &Content, group: Option<u32>) -> io::Result<()> {
    let path = folder.join(&content.path);
    let mut above = folder.to_owned();
    for part in Path::new(&content.path).parent().into_iter().flat_map(Path::components) {
        above.push(part);
        if !above.is_dir() {
            fs::create_dir(&above)?;
            set_owner(&above, 0o755, group)?;
        }
    }
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path)?;
    file.write_all(&content.bytes)?;
    let mut mode = content.mode;
    if let Some(group) = group {
        std::os::unix::fs::fchown(&file, None, Some(group))?;
        // The group can read files that are never written.
        mode |= 0o440;
    }
    file.set_permissions(fs::Permissions::from_mode(mode))
}
