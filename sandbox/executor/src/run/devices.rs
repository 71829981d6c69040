//! The container's device nodes and the links that programs expect beside them.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, StatxFlags, Uid, chownat, makedev, mknodat, statat, statx, symlinkat,
};
use rustix::io::Errno;

use super::error::{At, Quoted, Stage, StageError};
use super::report::Reporter;
use crate::in_root::{self, Kind};
use crate::plan::{Device, Mount, MountKind, Plan};

const DEV: &CStr = c"/dev";

const LINKS: [(&CStr, &CStr); 6] = [
    (c"/proc/kcore", c"core"),
    (c"/proc/self/fd", c"fd"),
    (c"/proc/self/fd/0", c"stdin"),
    (c"/proc/self/fd/1", c"stdout"),
    (c"/proc/self/fd/2", c"stderr"),
    (c"pts/ptmx", c"ptmx"),
];

/// Fills a new /dev that is not attached yet: no lookup can be led astray in it. `kcore`: whether
/// there is a /proc/kcore to lead to.
pub(crate) fn populate(dev: BorrowedFd<'_>, plan: &Plan, kcore: bool) -> Result<(), StageError> {
    for device in &plan.devices {
        match child_of(DEV, &device.path) {
            Some(name) if !is_mounted_over(plan, &device.path) => make(dev, name, device)?,
            _ => {}
        }
    }
    for (text, name) in &LINKS[usize::from(!kcore)..] {
        match symlinkat(*text, dev, *name) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(StageError::new(Stage::Link, errno, Quoted(name))),
        }
    }
    Ok(())
}

/// The devices that [`populate`] could not make: in folders of /dev, outside it, or in a /dev that
/// is not ours. `own`: the mounts that belong to this container alone. In any other, such as a /dev
/// bound from the host, nothing is ever made: the device is there already, or is left out with a note.
pub(crate) fn make_elsewhere(
    root: BorrowedFd<'_>,
    plan: &Plan,
    own: &[MountId],
    reporter: &Reporter,
) -> Result<(), StageError> {
    let own_dev = |m: &Mount| m.target.as_c_str() == DEV && matches!(m.kind, MountKind::Tmpfs { .. });
    let own_dev = plan.mounts.iter().any(own_dev);
    for device in &plan.devices {
        let done = own_dev && child_of(DEV, &device.path).is_some();
        if done || is_mounted_over(plan, &device.path) {
            continue;
        }
        let at = |errno| StageError::new(Stage::Device, errno, Quoted(&device.path));
        let (folder, name) = split(&device.path).ok_or(Errno::INVAL).map_err(at)?;
        match own_folder(root, &folder, own).map_err(at)? {
            Some(folder) => make(folder.as_fd(), name, device)?,
            None if in_root::find(root, &*device.path).is_ok() => {}
            None => {
                let why = format!("{}: left out, as a volume covers its folder", Quoted(&device.path));
                reporter.note(Stage::Device, why);
            }
        }
    }
    Ok(())
}

/// Whether /dev itself is a volume.
pub(crate) fn dev_is_a_volume(plan: &Plan) -> bool {
    plan.mounts.iter().any(|m| m.target.as_c_str() == DEV && matches!(m.kind, MountKind::Bind { .. }))
}

/// A volume at the very path of a device takes its place.
pub(crate) fn is_mounted_over(plan: &Plan, device: &CStr) -> bool {
    plan.mounts.iter().any(|mount| mount.target.as_c_str() == device)
}

/// Names a mount in this mount namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MountId(u64);

/// The mount that `place` is in.
pub(crate) fn mount_of(place: BorrowedFd<'_>) -> Result<MountId, Errno> {
    let stat = statx(place, c"", AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC, StatxFlags::MNT_ID)?;
    Ok(MountId(stat.stx_mnt_id))
}

/// The folder, made when missing; None when it is, or would be, in another mount than `own` ones.
fn own_folder(root: BorrowedFd<'_>, folder: &CStr, own: &[MountId]) -> Result<Option<OwnedFd>, Errno> {
    let mut above = folder.to_owned();
    let there = loop {
        match in_root::find(root, &*above) {
            Err(Errno::NOENT) => match split(&above) {
                Some((parent, _)) => above = parent,
                None => return Err(Errno::NOENT),
            },
            other => break other?,
        }
    };
    if !own.contains(&mount_of(there.as_fd())?) {
        return Ok(None);
    }
    let folder = in_root::find_or_make(root, folder, Kind::Folder)?;
    Ok(own.contains(&mount_of(folder.as_fd())?).then_some(folder))
}

fn make(folder: BorrowedFd<'_>, name: &[u8], device: &Device) -> Result<(), StageError> {
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

fn split(path: &CStr) -> Option<(CString, &[u8])> {
    let bytes = path.to_bytes();
    let at = bytes.iter().rposition(|&b| b == b'/')?;
    let (folder, name) = (&bytes[..at], &bytes[at + 1..]);
    let plain = !name.is_empty() && name != b"." && name != b"..";
    let folder = CString::new(if folder.is_empty() { b"/" } else { folder }).ok()?;
    plain.then_some((folder, name))
}

/// The single name by which `path` lies below `folder`.
pub(crate) fn child_of<'a>(folder: &CStr, path: &'a CStr) -> Option<&'a [u8]> {
    let name = path.to_bytes().strip_prefix(folder.to_bytes())?.strip_prefix(b"/")?;
    let plain = !name.is_empty() && !name.contains(&b'/') && name != b"." && name != b"..";
    plain.then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_path_has_a_folder_and_a_name() {
        assert_eq!(split(c"/dev/net/tun"), Some((c"/dev/net".to_owned(), &b"tun"[..])));
        assert_eq!(split(c"/x"), Some((c"/".to_owned(), &b"x"[..])));
        assert_eq!(split(c"/dev/.."), None);
        assert_eq!(split(c"/dev/"), None);
    }

    #[test]
    fn only_plain_names_are_children() {
        assert_eq!(child_of(c"/dev", c"/dev/pts"), Some(&b"pts"[..]));
        for path in [c"/dev", c"/dev/", c"/dev/..", c"/dev/a/b", c"/devil/x", c"/etc"] {
            assert_eq!(child_of(c"/dev", path), None, "{path:?}");
        }
    }
}
