//! Kernel settings of the pod's namespaces, through procfs and through nothing else.

use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags, PROC_SUPER_MAGIC, ResolveFlags, fstatfs, openat, openat2};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};
use serde::{Deserialize, Serialize};

/// Why a setting is not made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("kernel setting {name:?}: {reason}")]
pub struct SysctlError {
    /// As it was given.
    pub name: String,
    pub reason: String,
}

fn refused(name: &str, reason: impl Into<String>) -> SysctlError {
    SysctlError { name: name.to_owned(), reason: reason.into() }
}

/// The path below /proc/sys: `net.ipv4.ip_forward` and `net/ipv4/ip_forward` are the same, and only
/// the second form can name a part that has a dot in it.
fn path(name: &str) -> Option<String> {
    let path = if name.contains('/') { name.to_owned() } else { name.replace('.', "/") };
    let sound = |part: &str| !part.is_empty() && part != "." && part != ".." && !part.contains('\0');
    (path.contains('/') && path.split('/').all(sound)).then_some(path)
}

/// Whether it is the name and the value of a kernel setting.
///
/// # Errors
/// It is not.
pub fn check(name: &str, value: &str) -> Result<(), SysctlError> {
    if path(name).is_none() {
        return Err(refused(name, "not the name of a kernel setting"));
    }
    if value.contains(['\n', '\0']) {
        return Err(refused(name, "its value holds a line break or a zero byte"));
    }
    Ok(())
}

/// Sets all of them, in the namespaces that the caller is in. `proc`: the host's.
///
/// # Errors
/// The first that the kernel does not take.
pub fn apply(settings: &[(String, String)], proc: Option<&OwnedFd>) -> Result<(), SysctlError> {
    if settings.is_empty() {
        return Ok(());
    }
    let host = proc.and_then(host_settings);
    for (name, value) in settings {
        check(name, value)?;
        let path = path(name).unwrap_or_default();
        let result = match host.as_ref().map(|folder| set(folder, &path, value)) {
            Some(Err(Errno::ROFS)) | None => own_settings().and_then(|folder| set(&folder, &path, value)),
            Some(result) => result,
        };
        result.map_err(|errno| refused(name, explain(errno, value)))?;
    }
    Ok(())
}

fn explain(errno: Errno, value: &str) -> String {
    match errno {
        Errno::NOENT => "this kernel has no such setting".to_owned(),
        Errno::INVAL | Errno::RANGE => format!("the kernel does not take the value {value:?}"),
        errno => std::io::Error::from(errno).to_string(),
    }
}

/// None where /proc/sys is not what it should be.
fn host_settings(proc: &OwnedFd) -> Option<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = openat(proc, c"sys", flags, Mode::empty()).ok()?;
    let real = fstatfs(&folder).is_ok_and(|fs| fs.f_type == PROC_SUPER_MAGIC);
    real.then_some(folder)
}

/// A detached procfs of our own: where the server itself runs in a container, the host's settings
/// are read-only to it.
fn own_settings() -> Result<OwnedFd, Errno> {
    let filesystem = fsopen(c"proc", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(&filesystem)?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let root = fsmount(&filesystem, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
    openat(&root, c"sys", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

fn set(folder: &OwnedFd, path: &str, value: &str) -> Result<(), Errno> {
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    let file = openat2(folder, path, flags, Mode::empty(), resolve)?;
    rustix::io::write(&file, value.as_bytes()).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_spellings_name_the_same_setting() {
        assert_eq!(path("net.ipv4.ip_forward").unwrap(), "net/ipv4/ip_forward");
        assert_eq!(path("net/ipv4/conf/eth0.1/forwarding").unwrap(), "net/ipv4/conf/eth0.1/forwarding");
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        for name in ["", "net", "..", "../x", "net/../../x", "/etc/passwd", "net//x", "net..x", "a/\0"] {
            assert!(check(name, "1").is_err(), "{name:?}");
        }
        assert!(check("net.ipv4.ip_forward", "1\n2").is_err());
        assert!(check("net.ipv4.ip_forward", "1").is_ok());
    }
}
