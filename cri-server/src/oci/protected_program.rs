//! This program, out of reach of containers.
//!
//! An image may have a container's first process run `/proc/self/exe`, which is this program until then; as the
//! container's root it could then write to it, on the host (CVE-2019-5736). So what starts processes runs itself
//! again first, from a mount of its file that is read-only and attached nowhere.

use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::CommandExt as _;

use anyhow::Context as _;
use rustix::fd::{AsRawFd as _, OwnedFd};
use rustix::fs::{CWD, StatVfsMountFlags, statvfs};
use rustix::mount::{OpenTreeFlags, open_tree};

const PROGRAM: &str = "/proc/self/exe";

/// Returns in a process whose program cannot be written to by way of it.
///
/// # Errors
/// The kernel's.
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
