//! Device nodes, and the rules for which devices a container may use.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use crisp_executor::cgroup::HARMLESS_DEVICES;
use oci_spec::runtime::{LinuxDevice, LinuxDeviceCgroup, LinuxDeviceType};

use super::SpecError;
use crate::container::config::Device;

/// Folders below this depth are not searched for devices.
const MAX_DEPTH: usize = 6;

/// Parts of /dev that a privileged container does not get: folders that belong to other mounts or to other
/// container managers, and the host's console, which its own terminal replaces.
const NOT_HOST_DEVICES: [&str; 9] =
    ["pts", "shm", "mqueue", "fd", "hugepages", "console", ".lxc", ".lxd-mounts", ".udev"];

/// Nodes and rules of one container.
#[derive(Debug, Default)]
pub struct Devices {
    pub nodes: Vec<LinuxDevice>,
    pub rules: Vec<LinuxDeviceCgroup>,
}

/// The inputs for the devices.
#[derive(Debug)]
pub struct Inputs<'a> {
    pub privileged: bool,
    pub user_namespace: bool,
    pub requested: &'a [Device],
}

/// Blocks: reads host paths.
///
/// # Errors
/// A requested path is missing or is not a device.
pub fn resolve(inputs: &Inputs<'_>) -> Result<Devices, SpecError> {
    let mut devices = Devices::default();
    if inputs.privileged {
        let all =
            Device { container_path: "/dev".into(), host_path: "/dev".into(), permissions: "rwm".into() };
        collect(&all, Path::new("/dev"), 0, &mut devices);
        devices.rules = if inputs.user_namespace {
            keep_what_all_may_use(&mut devices.nodes);
            // Only the listed devices: an image can contain nodes of any device.
            let kept = devices.nodes.iter();
            let kept = kept.map(|node| rule(true, node.typ(), Some(node.major()), Some(node.minor()), "rw"));
            default_rules().into_iter().chain(kept).collect()
        } else {
            vec![rule(true, LinuxDeviceType::A, None, None, "rwm")]
        };
    } else {
        devices.rules = default_rules();
    }
    for (i, device) in inputs.requested.iter().enumerate() {
        let before = devices.nodes.len();
        let field = || format!("config.devices[{i}].host_path");
        let path = device.host_path.clone();
        fs::metadata(&path).map_err(|source| SpecError::Device {
            field: field(),
            path: path.clone(),
            source,
        })?;
        collect(device, &path, 0, &mut devices);
        if devices.nodes.len() == before {
            return Err(SpecError::NotADevice { field: field(), path });
        }
    }
    dedupe(&mut devices.nodes);
    Ok(devices)
}

/// Adds `path` if it is a device, and all devices below if it is a folder. Files that vanish meanwhile are
/// skipped: unplugging a device must not fail the container.
fn collect(request: &Device, path: &Path, depth: usize, devices: &mut Devices) {
    // Links are followed at the top only: requests use links such as /dev/disk/by-id.
    let metadata = if depth == 0 { fs::metadata(path) } else { fs::symlink_metadata(path) };
    let Ok(metadata) = metadata else { return };
    let kind = metadata.file_type();
    if kind.is_dir() && depth < MAX_DEPTH {
        let Ok(entries) = fs::read_dir(path) else { return };
        for entry in entries.flatten() {
            let own_mount = path == Path::new("/dev")
                && NOT_HOST_DEVICES
                    .iter()
                    .any(|name| entry.file_name().as_encoded_bytes() == name.as_bytes());
            if !own_mount {
                collect(request, &entry.path(), depth + 1, devices);
            }
        }
    } else if kind.is_char_device() || kind.is_block_device() {
        let typ = if kind.is_char_device() { LinuxDeviceType::C } else { LinuxDeviceType::B };
        devices.nodes.push(device_node(&target(request, path), typ, &metadata));
        let (major, minor) = numbers(&metadata);
        devices.rules.push(rule(true, typ, Some(major), Some(minor), &request.permissions));
    }
}

/// The root of a user namespace is not the host's root: among host devices that were not requested by name,
/// it may use those that every user of the host may use, with the same access.
fn keep_what_all_may_use(nodes: &mut Vec<LinuxDevice>) {
    const OTHERS: u32 = 0o006;
    nodes.retain(|node| node.file_mode().is_some_and(|mode| mode & OTHERS != 0));
    for node in nodes {
        let others = node.file_mode().unwrap_or_default() & OTHERS;
        node.set_file_mode(Some(others * 0o111)).set_uid(Some(0)).set_gid(Some(0));
    }
}

/// The path in the container of a node below the requested host path.
fn target(request: &Device, path: &Path) -> PathBuf {
    match path.strip_prefix(&request.host_path) {
        Ok(rest) if !rest.as_os_str().is_empty() => request.container_path.join(rest),
        _ => request.container_path.clone(),
    }
}

pub(super) fn numbers(metadata: &fs::Metadata) -> (i64, i64) {
    let device = metadata.rdev();
    (rustix::fs::major(device).into(), rustix::fs::minor(device).into())
}

fn device_node(path: &Path, typ: LinuxDeviceType, metadata: &fs::Metadata) -> LinuxDevice {
    let (major, minor) = numbers(metadata);
    let mut device = LinuxDevice::default();
    device
        .set_path(path.to_owned())
        .set_typ(typ)
        .set_major(major)
        .set_minor(minor)
        .set_file_mode(Some(metadata.mode() & 0o7777))
        .set_uid(Some(metadata.uid()))
        .set_gid(Some(metadata.gid()));
    device
}

/// Keeps the last of several nodes with the same path.
pub(super) fn dedupe(nodes: &mut Vec<LinuxDevice>) {
    let mut seen = std::collections::HashSet::new();
    nodes.reverse();
    nodes.retain(|node| seen.insert(node.path().clone()));
    nodes.reverse();
}

pub(super) fn rule(
    allow: bool,
    typ: LinuxDeviceType,
    major: Option<i64>,
    minor: Option<i64>,
    access: &str,
) -> LinuxDeviceCgroup {
    let mut rule = LinuxDeviceCgroup::default();
    rule.set_allow(allow)
        .set_typ(Some(typ))
        .set_major(major)
        .set_minor(minor)
        .set_access(Some(access.to_owned()));
    rule
}

/// Allows only harmless devices. All nodes may be created, but not used.
fn default_rules() -> Vec<LinuxDeviceCgroup> {
    let mut rules = vec![
        rule(false, LinuxDeviceType::A, None, None, "rwm"),
        rule(true, LinuxDeviceType::C, None, None, "m"),
        rule(true, LinuxDeviceType::B, None, None, "m"),
    ];
    rules.extend(HARMLESS_DEVICES.map(|(major, minor)| {
        rule(true, LinuxDeviceType::C, Some(major.into()), minor.map(Into::into), "rwm")
    }));
    rules
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(host: &str, container: &str) -> Device {
        Device { host_path: host.into(), container_path: container.into(), permissions: "rw".into() }
    }

    fn resolve_for(privileged: bool, requested: &[Device]) -> Result<Devices, SpecError> {
        resolve(&Inputs { privileged, user_namespace: false, requested })
    }

    #[test]
    fn a_device_by_path() {
        let devices = resolve_for(false, &[device("/dev/zero", "/dev/nothing")]).unwrap();
        let node = &devices.nodes[0];
        assert_eq!((node.path().as_path(), node.major(), node.minor()), (Path::new("/dev/nothing"), 1, 5));
        assert_eq!(devices.rules.last().unwrap().access().as_deref(), Some("rw"));
        assert!(!devices.rules[0].allow());
    }

    #[test]
    fn a_path_without_devices_is_named() {
        let error = resolve_for(false, &[device("/etc/passwd", "/x")]).unwrap_err().to_string();
        assert!(error.starts_with("config.devices[0].host_path: \"/etc/passwd\" is not a device"), "{error}");
        let error = resolve_for(false, &[device("/dev/no-such", "/x")]).unwrap_err().to_string();
        assert!(error.contains("/dev/no-such"), "{error}");
    }

    #[test]
    fn a_privileged_container_sees_the_hosts() {
        let devices = resolve_for(true, &[]).unwrap();
        assert!(devices.nodes.iter().any(|n| n.path() == Path::new("/dev/null")));
        assert!(devices.rules.iter().all(LinuxDeviceCgroup::allow));
        assert!(!devices.nodes.iter().any(|n| n.path().starts_with("/dev/pts")));
    }

    #[test]
    fn in_a_user_namespace_a_privileged_container_gets_what_all_may_use() {
        let devices = resolve(&Inputs { privileged: true, user_namespace: true, requested: &[] }).unwrap();
        // An image can contain nodes of any device.
        assert!(devices.rules.iter().all(|rule| !rule.allow() || rule.typ() != Some(LinuxDeviceType::A)));
        let mode = |path: &str| {
            let node = devices.nodes.iter().find(|node| node.path() == Path::new(path))?;
            assert_eq!((node.uid(), node.gid()), (Some(0), Some(0)));
            node.file_mode()
        };
        assert_eq!(mode("/dev/null"), Some(0o666));
        assert!(devices.nodes.iter().all(|node| node.file_mode().unwrap() & 0o6 != 0));
        let disk = |node: &LinuxDevice| node.typ() == LinuxDeviceType::B;
        assert!(!devices.nodes.iter().any(disk), "{:?}", devices.nodes);
    }

    /// Otherwise the container could read and write the machine's own console.
    #[test]
    fn a_privileged_container_gets_no_console_of_the_host() {
        let console = Path::new("/dev/console");
        if !fs::metadata(console).is_ok_and(|metadata| metadata.file_type().is_char_device()) {
            crisp_skip::unsupported!(Device("/dev/console"));
        }
        let devices = resolve_for(true, &[]).unwrap();
        assert!(devices.nodes.iter().any(|node| node.path() == Path::new("/dev/null")));
        assert!(!devices.nodes.iter().any(|node| node.path() == console));
    }
}
