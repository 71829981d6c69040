//! `linux.devices`: the nodes in the container's /dev.

use std::ffi::CStr;

use oci_spec::runtime::{LinuxDevice, LinuxDeviceType};
use rustix::fs::FileType;

use super::CompileError;
use super::field::{container_path, invalid};
use crate::plan::{Device, Mount, MountKind};

/// The nodes that every container has, by the OCI spec ("default devices").
const DEFAULTS: [(&CStr, u32, u32); 6] = [
    (c"/dev/null", 1, 3),
    (c"/dev/zero", 1, 5),
    (c"/dev/full", 1, 7),
    (c"/dev/random", 1, 8),
    (c"/dev/urandom", 1, 9),
    (c"/dev/tty", 5, 0),
];

/// Makes the list of nodes. The default ones are added if /dev is the container's own; devices of the spec at
/// the same paths replace them.
pub(super) fn devices(given: &[LinuxDevice], mounts: &[Mount]) -> Result<Vec<Device>, CompileError> {
    let mut devices: Vec<Device> = Vec::with_capacity(given.len() + DEFAULTS.len());
    for (index, device) in given.iter().enumerate() {
        let device = convert(index, device)?;
        devices.retain(|d| d.path != device.path);
        devices.push(device);
    }
    let own_dev = |m: &Mount| m.target.as_c_str() == c"/dev" && matches!(m.kind, MountKind::Tmpfs { .. });
    if mounts.iter().any(own_dev) {
        for (path, major, minor) in DEFAULTS {
            if !devices.iter().any(|d| d.path.as_c_str() == path) {
                let mode = FileType::CharacterDevice.as_raw_mode() | 0o666;
                devices.push(Device { path: path.to_owned(), mode, major, minor, uid: 0, gid: 0 });
            }
        }
    }
    Ok(devices)
}

fn convert(index: usize, device: &LinuxDevice) -> Result<Device, CompileError> {
    let field = |name: &str| format!("linux.devices[{index}].{name}");
    let kind = match device.typ() {
        LinuxDeviceType::C | LinuxDeviceType::U => FileType::CharacterDevice,
        LinuxDeviceType::B => FileType::BlockDevice,
        LinuxDeviceType::P => FileType::Fifo,
        LinuxDeviceType::A => return Err(invalid(field("type"), "a is not the type of a node")),
    };
    let number = |name: &str, value: i64| match kind {
        FileType::Fifo => Ok(0),
        _ => u32::try_from(value).map_err(|_| invalid(field(name), format!("{value} is out of range"))),
    };
    let path = container_path(|| field("path"), device.path())?;
    if path.as_bytes() == b"/" {
        return Err(invalid(field("path"), "it is the root"));
    }
    Ok(Device {
        path,
        mode: kind.as_raw_mode() | device.file_mode().unwrap_or(0o666) & 0o7777,
        major: number("major", device.major())?,
        minor: number("minor", device.minor())?,
        uid: device.uid().unwrap_or(0),
        gid: device.gid().unwrap_or(0),
    })
}
