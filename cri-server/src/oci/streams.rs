//! The streams of a process: those of the caller.

use anyhow::bail;
use crisp_executor::run::Stdio;
use oci_spec::runtime::Process;
use rustix::fd::BorrowedFd;
use rustix::io::{Errno, fcntl_dupfd_cloexec};
use rustix::stdio::{stderr, stdin, stdout};

/// Limit for `--preserve-fds`: the default limit of descriptors of a process.
const MOST: u32 = 1024;

/// The caller's streams for a process, and its descriptors from 3 on. Removes the terminal size from
/// `process`, because the streams have it.
///
/// # Errors
/// No more descriptors can be opened.
pub fn inherited(process: &mut Process, preserved: u32) -> anyhow::Result<Stdio> {
    let copy = |stream: BorrowedFd<'_>| match fcntl_dupfd_cloexec(stream, 3 + preserved.cast_signed()) {
        Ok(copy) => Ok(Some(copy)),
        Err(Errno::BADF) => Ok(None),
        Err(errno) => Err(errno),
    };
    let size = process.console_size();
    process.set_console_size(None);
    let size = size.map(|size| (short(size.width()), short(size.height()))).filter(|size| *size != (0, 0));
    Ok(Stdio { stdin: copy(stdin())?, stdout: copy(stdout())?, stderr: copy(stderr())?, size, preserved })
}

fn short(number: u64) -> u16 {
    u16::try_from(number).unwrap_or(u16::MAX)
}

/// Call this before this process opens anything: a new descriptor with the number of a missing one would be
/// passed to the container.
///
/// # Errors
/// A descriptor that must be inherited is not open.
pub fn check_preserved(preserved: u32) -> anyhow::Result<()> {
    if preserved > MOST {
        bail!("--preserve-fds {preserved}: {MOST} at most");
    }
    for number in 3..3 + preserved {
        let path = format!("/proc/self/fd/{number}");
        let open = rustix::fs::lstat(&path).is_ok();
        if !open {
            bail!("--preserve-fds {preserved}: descriptor {number} is not open");
        }
    }
    Ok(())
}
