//! New detached mounts: `fsopen`, options, `fsmount`.

use std::ffi::CStr;
use std::fmt;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create,
    fsconfig_set_fd, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, open_tree,
};

use crate::sys::{self, MountAttr};

/// Why a file system could not be made, with the kernel's message where there is one.
#[derive(Debug)]
pub(crate) struct Refused {
    pub errno: Errno,
    kernel_log: String,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&super::error::words(self.errno))?;
        if self.kernel_log.is_empty() { Ok(()) } else { write!(f, " ({})", self.kernel_log) }
    }
}

/// A new, unattached mount. `options` are `key=value` or `key`, `attributes` MOUNT_ATTR_ bits. Its
/// source, which people see in `mount` and `df`, is the file system's name unless an option says so.
pub(crate) fn new(name: &CStr, options: &[&CStr], attributes: u64) -> Result<OwnedFd, Refused> {
    make(name, |context| configure(context, name, options), attributes)
}

/// The same with one option, whose value is a descriptor.
pub(crate) fn new_by_descriptor(
    name: &CStr,
    (key, value): (&CStr, BorrowedFd<'_>),
    attributes: u64,
) -> Result<OwnedFd, Refused> {
    let configure = |context: &OwnedFd| {
        configure(context, name, &[])?;
        fsconfig_set_fd(context, key, value)
    };
    make(name, configure, attributes)
}

fn make(
    name: &CStr,
    configure: impl FnOnce(&OwnedFd) -> Result<(), Errno>,
    attributes: u64,
) -> Result<OwnedFd, Refused> {
    let context = fsopen(name, FsOpenFlags::FSOPEN_CLOEXEC)
        .map_err(|errno| Refused { errno, kernel_log: format!("{name:?} cannot be opened") })?;
    let made = configure(&context).and_then(|()| {
        fsconfig_create(&context)?;
        fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attribute_flags(attributes))
    });
    made.map_err(|errno| Refused { errno, kernel_log: kernel_log(&context) })
}

/// Whether file systems of type `name` have the option `key`, whose value is a path.
pub(crate) fn has_option(name: &CStr, key: &CStr) -> bool {
    // One that the kernel does not know is EINVAL; for one that it knows it looks for the file.
    fsopen(name, FsOpenFlags::FSOPEN_CLOEXEC)
        .is_ok_and(|context| fsconfig_set_string(&context, key, c"/no such file") == Err(Errno::NOENT))
}

fn configure(context: &OwnedFd, name: &CStr, options: &[&CStr]) -> Result<(), Errno> {
    if !options.iter().any(|option| option.to_bytes().starts_with(b"source=")) {
        fsconfig_set_string(context, c"source", name)?;
    }
    for option in options {
        let option = option.to_bytes();
        match option.iter().position(|&b| b == b'=') {
            Some(at) => fsconfig_set_string(context, &option[..at], &option[at + 1..])?,
            None => fsconfig_set_flag(context, option)?,
        }
    }
    Ok(())
}

/// The kernel writes its messages into the context: lines such as `e tmpfs: Bad value for 'size'`.
fn kernel_log(context: &OwnedFd) -> String {
    let mut all = Vec::new();
    let mut line = [0u8; 256];
    while let Ok(length) = rustix::io::read(context, &mut line) {
        if length < 2 || all.len() > 8 {
            break;
        }
        all.push(String::from_utf8_lossy(&line[2..length]).trim_end().to_owned());
    }
    all.join("; ")
}

/// The bits of a plan as rustix has them; all of them are 32 bits wide.
pub(crate) fn attribute_flags(attributes: u64) -> MountAttrFlags {
    MountAttrFlags::from_bits_retain((attributes & u64::from(u32::MAX)) as u32)
}

/// Attaches a detached mount over what `target` names.
pub(crate) fn attach(mount: BorrowedFd<'_>, target: BorrowedFd<'_>) -> Result<(), Errno> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(mount, c"", target, c"", flags)
}

/// Makes the mount that `place` names read-only, `whole` with everything below it.
pub(crate) fn set_read_only(place: BorrowedFd<'_>, whole: bool) -> Result<(), Errno> {
    sys::mount_setattr(
        place,
        whole,
        &MountAttr { set: MountAttrFlags::MOUNT_ATTR_RDONLY.bits().into(), ..MountAttr::default() },
    )
}

/// A detached copy of the mount at what `place` names, `whole` with everything below it.
pub(crate) fn copy(place: BorrowedFd<'_>, whole: bool) -> Result<OwnedFd, Errno> {
    let mut flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    if whole {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    open_tree(place, c"", flags)
}
