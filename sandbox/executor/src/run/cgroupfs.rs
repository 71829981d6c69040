//! /sys/fs/cgroup on hosts with cgroup v1: a tmpfs with one folder per hierarchy.

use std::ffi::{CStr, CString};
use std::os::fd::BorrowedFd;

use rustix::fs::{Mode, mkdir, symlinkat};
use rustix::mount::{MountFlags, mount};
use rustix::process::fchdir;

use super::error::{At, Quoted, Stage, StageError};
use super::filesystem;

/// Mounts `hierarchies` (`cpu,cpuacct`, `name=systemd`) and with `unified` the v2 one into `folder`, which is
/// new and empty. Changes the working directory.
pub(crate) fn fill(
    folder: BorrowedFd<'_>,
    hierarchies: &[CString],
    unified: bool,
    attributes: u64,
) -> Result<(), StageError> {
    fchdir(folder).at(Stage::Mount, "enter the folder of cgroups")?;
    for hierarchy in hierarchies {
        let name = folder_name(hierarchy);
        mount_here(c"cgroup", &name, &options(hierarchy), attributes)?;
        link_single_names(folder, name.to_bytes())?;
    }
    if unified { mount_here(c"cgroup2", c"unified", c"", attributes) } else { Ok(()) }
}

/// Uses mount(2): one call instead of eight for a detached mount, and there are ten hierarchies.
fn mount_here(fs: &CStr, name: &CStr, options: &CStr, attributes: u64) -> Result<(), StageError> {
    // These bits are the same in both interfaces.
    let same = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    let flags = filesystem::attribute_flags(attributes).bits() & same.bits();
    let failed = || format!("cgroup {name:?}");
    mkdir(name, Mode::from_raw_mode(0o755)).at(Stage::Mount, failed())?;
    mount(fs, name, fs, MountFlags::from_bits_retain(flags), options).at(Stage::Mount, failed())
}

/// `cpu` -> `cpu,cpuacct`: programs look for either name.
fn link_single_names(folder: BorrowedFd<'_>, name: &[u8]) -> Result<(), StageError> {
    if !name.contains(&b',') {
        return Ok(());
    }
    for single in name.split(|&b| b == b',') {
        let target = CString::new(name).unwrap_or_default();
        symlinkat(&*target, folder, single).at(Stage::Link, Quoted(&target))?;
    }
    Ok(())
}

/// A named hierarchy's folder has the bare name.
fn folder_name(hierarchy: &CStr) -> CString {
    let bytes = hierarchy.to_bytes();
    CString::new(bytes.strip_prefix(b"name=").unwrap_or(bytes)).unwrap_or_default()
}

/// A hierarchy without controllers needs the option `none`.
fn options(hierarchy: &CStr) -> CString {
    match hierarchy.to_bytes() {
        bytes if bytes.starts_with(b"name=") => CString::new([b"none,", bytes].concat()).unwrap_or_default(),
        _ => hierarchy.to_owned(),
    }
}
