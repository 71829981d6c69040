//! Protects the program file of crisp against containers.
//!
//! An image may have a container's first process run `/proc/self/exe`, which is crisp until then; root in the
//! container could then overwrite the program on the host (CVE-2019-5736). So commands that start processes
//! first run themselves again from a detached, read-only mount of the program file.

use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::CommandExt as _;

use anyhow::Context as _;
use rustix::fd::{AsRawFd as _, OwnedFd};
use rustix::fs::{CWD, StatVfsMountFlags, statvfs};
use rustix::mount::{OpenTreeFlags, open_tree};

const PROGRAM: &str = "/proc/self/exe";

/// Returns in a process whose program file cannot be written through its `/proc/self/exe`.
///
/// # Errors
/// The kernel's error.
pub fn ensure() -> anyhow::Result<()> {
    let is_read_only = statvfs(PROGRAM).is_ok_and(|mount| mount.f_flag.contains(StatVfsMountFlags::RDONLY));
    if is_read_only { Ok(()) } else { run_again() }
}

#[expect(clippy::disallowed_methods, reason = "it is this very program, which becomes itself")]
fn run_again() -> anyhow::Result<()> {
    let program = read_only().context("make a read-only mount of this program")?;
    let mut args = std::env::args_os();
    let name = args.next().unwrap_or_default();
    let path = format!("/proc/self/fd/{}", program.as_raw_fd());
    let mut again = std::process::Command::new(path);
    again.arg0(std::ffi::OsStr::from_bytes(name.as_bytes())).args(args);
    Err(again.exec()).context("run this program from a read-only mount")
}

fn read_only() -> std::io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let mount = open_tree(CWD, PROGRAM, flags)?;
    crisp_executor::source::make_read_only(&mount)?;
    Ok(mount)
}
