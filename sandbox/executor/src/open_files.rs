//! The limit of a process for open files.

use rustix::io::Errno;

use crate::sys;

/// The soft limit; None: no limit. The kernel formats no text for it, as it does for /proc/PID/limits.
///
/// # Errors
/// ESRCH: it has ended. EPERM without CAP_SYS_RESOURCE, if it runs as another user.
pub fn soft_limit(pid: i32) -> Result<Option<u64>, Errno> {
    let limit = sys::limit_of(pid, libc::RLIMIT_NOFILE)?.soft;
    Ok(Some(limit).filter(|limit| *limit != libc::RLIM64_INFINITY))
}
