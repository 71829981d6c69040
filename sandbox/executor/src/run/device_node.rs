//! Device nodes, and the choice of those that are directly in a container's own /dev.

use std::ffi::CStr;
use std::os::fd::BorrowedFd;

use rustix::fs::{AtFlags, FileType, Gid, Mode, Uid, chownat, makedev, mknodat, statat};
use rustix::io::Errno;

use super::error::{At, Quoted, Stage, StageError};
use crate::plan::{Device, Mount, MountKind, Plan};

const DEV: &CStr = c"/dev";

/// Makes the nodes directly below /dev in a new /dev that is not attached yet: no lookup in it can be
/// redirected.
pub(crate) fn populate(dev: BorrowedFd<'_>, plan: &Plan, devices: &[Device]) -> Result<(), StageError> {
    for device in devices {
        match child_of(DEV, &device.path) {
            Some(name) if !is_mounted_over(plan, &device.path) => make(dev, name, device)?,
            _ => {}
        }
    }
    Ok(())
}

/// The devices that do not belong right below a /dev of the container's own, with their positions.
pub(crate) fn elsewhere(plan: &Plan) -> impl Iterator<Item = (usize, &Device)> {
    let own_dev = plan.mounts.iter().any(is_own_dev);
    let done = move |device: &Device| own_dev && child_of(DEV, &device.path).is_some();
    let devices = plan.devices.iter().enumerate();
    devices.filter(move |(_, device)| !done(device) && !is_mounted_over(plan, &device.path))
}

/// Whether it is a /dev of the container's own.
pub(crate) fn is_own_dev(mount: &Mount) -> bool {
    mount.target.as_c_str() == DEV && matches!(mount.kind, MountKind::Tmpfs { .. })
}

/// A volume at the very path of a device takes its place.
pub(crate) fn is_mounted_over(plan: &Plan, device: &CStr) -> bool {
    plan.mounts.iter().any(|mount| mount.target.as_c_str() == device)
}

/// The single name by which `path` lies below `folder`.
pub(crate) fn child_of<'a>(folder: &CStr, path: &'a CStr) -> Option<&'a [u8]> {
    let name = path.to_bytes().strip_prefix(folder.to_bytes())?.strip_prefix(b"/")?;
    let plain = !name.is_empty() && !name.contains(&b'/') && name != b"." && name != b"..";
    plain.then_some(name)
}

pub(crate) fn make(folder: BorrowedFd<'_>, name: &[u8], device: &Device) -> Result<(), StageError> {
    let kind = FileType::from_raw_mode(device.mode);
    let mode = Mode::from_raw_mode(device.mode & 0o7777);
    let number = makedev(device.major, device.minor);
    match mknodat(folder, name, kind, mode, number) {
        Ok(()) => {}
        Err(Errno::EXIST) => return same(folder, name, device),
        Err(errno) => return Err(StageError::new(Stage::Device, errno, Quoted(&device.path))),
    }
    if device.uid == 0 && device.gid == 0 {
        return Ok(());
    }
    let (uid, gid) = (Uid::from_raw(device.uid), Gid::from_raw(device.gid));
    chownat(folder, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
        .at(Stage::Device, Quoted(&device.path))
}

/// Something is there already: fine when it is the very device.
fn same(folder: BorrowedFd<'_>, name: &[u8], device: &Device) -> Result<(), StageError> {
    let stat = statat(folder, name, AtFlags::SYMLINK_NOFOLLOW).at(Stage::Device, Quoted(&device.path))?;
    let same = FileType::from_raw_mode(stat.st_mode) == FileType::from_raw_mode(device.mode)
        && (FileType::from_raw_mode(device.mode) == FileType::Fifo
            || stat.st_rdev == makedev(device.major, device.minor));
    if same {
        return Ok(());
    }
    let why = format!("{}: something else is there already", Quoted(&device.path));
    Err(StageError::explained(Stage::Device, Errno::EXIST, why))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_names_are_children() {
        assert_eq!(child_of(c"/dev", c"/dev/pts"), Some(&b"pts"[..]));
        for path in [c"/dev", c"/dev/", c"/dev/..", c"/dev/a/b", c"/devil/x", c"/etc"] {
            assert_eq!(child_of(c"/dev", path), None, "{path:?}");
        }
    }
}
