//! /sys/fs/cgroup on hosts with cgroup v1: a tmpfs with one folder per hierarchy.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{Mode, OFlags, mkdirat, openat, symlinkat};

use super::error::{At, Quoted, Stage, StageError};
use super::filesystem;

/// Mounts `hierarchies` (`cpu,cpuacct`, `name=systemd`) and with `unified` the v2 one into `folder`.
pub(crate) fn fill(
    folder: BorrowedFd<'_>,
    hierarchies: &[CString],
    unified: bool,
    attributes: u64,
) -> Result<(), StageError> {
    for hierarchy in hierarchies {
        let name = folder_name(hierarchy);
        let options = options(hierarchy);
        let options: Vec<&CStr> = options.iter().map(CString::as_c_str).collect();
        mount(folder, c"cgroup", name, &options, attributes)?;
        link_single_names(folder, name)?;
    }
    if unified { mount(folder, c"cgroup2", b"unified", &[], attributes) } else { Ok(()) }
}

fn mount(
    folder: BorrowedFd<'_>,
    fs: &CStr,
    name: &[u8],
    options: &[&CStr],
    attributes: u64,
) -> Result<(), StageError> {
    let subject = || format!("cgroup {:?}", String::from_utf8_lossy(name));
    let mounted = filesystem::new(fs, options, attributes).map_err(|refused| {
        StageError::explained(Stage::Mount, refused.errno, format!("{}: {refused}", subject()))
    })?;
    mkdirat(folder, name, Mode::from_raw_mode(0o755)).at(Stage::Mount, subject())?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let target = openat(folder, name, flags, Mode::empty()).at(Stage::Mount, subject())?;
    filesystem::attach(mounted.as_fd(), target.as_fd()).at(Stage::Mount, subject())
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
fn folder_name(hierarchy: &CStr) -> &[u8] {
    let bytes = hierarchy.to_bytes();
    bytes.strip_prefix(b"name=").unwrap_or(bytes)
}

/// `cpu,cpuacct` is two flags to the kernel; a hierarchy without controllers says so.
fn options(hierarchy: &CStr) -> Vec<CString> {
    let bytes = hierarchy.to_bytes();
    if bytes.starts_with(b"name=") {
        return vec![c"none".to_owned(), hierarchy.to_owned()];
    }
    bytes.split(|&b| b == b',').filter_map(|name| CString::new(name).ok()).collect()
}
