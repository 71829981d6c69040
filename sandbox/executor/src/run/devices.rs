//! The container's devices in its root, and the links that programs expect beside them.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, StatxFlags, statx, symlinkat};
use rustix::io::Errno;

use super::device_node::{elsewhere, make};
use super::error::{Quoted, Stage, StageError};
use super::filesystem;
use super::prepared::Prepared;
use super::report::Reporter;
use crate::in_root::{self, Kind};
use crate::plan::{MountKind, Plan};

const DEV: &CStr = c"/dev";

const LINKS: [(&CStr, &CStr); 6] = [
    (c"/proc/kcore", c"core"),
    (c"/proc/self/fd", c"fd"),
    (c"/proc/self/fd/0", c"stdin"),
    (c"/proc/self/fd/1", c"stdout"),
    (c"/proc/self/fd/2", c"stderr"),
    (c"pts/ptmx", c"ptmx"),
];

/// Makes the links in a new /dev. `kcore`: whether there is a /proc/kcore to lead to.
pub(crate) fn make_links(dev: BorrowedFd<'_>, kcore: bool) -> Result<(), StageError> {
    for (text, name) in &LINKS[usize::from(!kcore)..] {
        match symlinkat(*text, dev, *name) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(StageError::new(Stage::Link, errno, Quoted(name))),
        }
    }
    Ok(())
}

/// The devices that [`populate`](super::device_node::populate) could not make: in folders of /dev, outside it, or in a /dev that
/// is not ours. `own`: the mounts that belong to this container alone. In any other, such as a /dev
/// bound from the host, nothing is ever made: the device is there already, or is left out with a note.
/// `prepared` has the nodes where this process may make none.
pub(crate) fn make_elsewhere(
    root: BorrowedFd<'_>,
    plan: &Plan,
    own: &[MountId],
    prepared: Option<&Prepared>,
    reporter: &Reporter,
) -> Result<(), StageError> {
    for (index, device) in elsewhere(plan) {
        let at = |errno| StageError::new(Stage::Device, errno, Quoted(&device.path));
        let (folder, name) = split(&device.path).ok_or(Errno::INVAL).map_err(at)?;
        match own_folder(root, &folder, own).map_err(at)? {
            Some(folder) => match prepared {
                None => make(folder.as_fd(), name, device)?,
                Some(prepared) => {
                    bind(root, &prepared.device(index).map_err(at)?, &device.path).map_err(at)?;
                }
            },
            None if in_root::find(root, &*device.path).is_ok() => {}
            None => {
                let why = format!("{}: left out, as a volume covers its folder", Quoted(&device.path));
                reporter.note(Stage::Device, why);
            }
        }
    }
    Ok(())
}

fn bind(root: BorrowedFd<'_>, node: &OwnedFd, path: &CStr) -> Result<(), Errno> {
    let place = in_root::find_or_make(root, path, Kind::File)?;
    filesystem::attach(node.as_fd(), place.as_fd())
}

/// Whether /dev itself is a volume.
pub(crate) fn dev_is_a_volume(plan: &Plan) -> bool {
    plan.mounts.iter().any(|m| m.target.as_c_str() == DEV && matches!(m.kind, MountKind::Bind { .. }))
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

fn split(path: &CStr) -> Option<(CString, &[u8])> {
    let bytes = path.to_bytes();
    let at = bytes.iter().rposition(|&b| b == b'/')?;
    let (folder, name) = (&bytes[..at], &bytes[at + 1..]);
    let plain = !name.is_empty() && name != b"." && name != b"..";
    let folder = CString::new(if folder.is_empty() { b"/" } else { folder }).ok()?;
    plain.then_some((folder, name))
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
}
