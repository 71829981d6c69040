//! System calls that change the calling process between clone and exec.

use std::ffi::{CStr, c_long};
#[cfg(feature = "compile")]
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::os::fd::{AsRawFd, BorrowedFd};
#[cfg(feature = "compile")]
use std::sync::Arc;

use rustix::io::Errno;

use super::checked;

/// Closes every descriptor from `first` on except for `keep`. Only for a child that never returns to code
/// that owns one of the others.
pub(crate) fn close_others(mut first: u32, keep: &[BorrowedFd<'_>]) -> Result<(), Errno> {
    let mut keep: Vec<u32> = keep.iter().map(|fd| fd.as_raw_fd().cast_unsigned()).collect();
    keep.sort_unstable();
    let start = first;
    for fd in keep.into_iter().filter(|fd| *fd >= start) {
        if fd > first {
            close_range(first, fd - 1)?;
        }
        first = first.max(fd + 1);
    }
    close_range(first, u32::MAX)
}

/// Closes `these`. Only for a child that never returns to code that owns one of them.
pub(crate) fn close_these(these: &[BorrowedFd<'_>]) -> Result<(), Errno> {
    let mut numbers: Vec<u32> = these.iter().map(|fd| fd.as_raw_fd().cast_unsigned()).collect();
    numbers.sort_unstable();
    for run in numbers.chunk_by(|number, next| number + 1 == *next) {
        if let (Some(first), Some(last)) = (run.first(), run.last()) {
            close_range(*first, *last)?;
        }
    }
    Ok(())
}

/// Moves this thread to a table of descriptors of its own, which contains only 0, 1, 2 and a copy of `keep`,
/// which is returned. Only for a thread that owns no descriptor except for `keep` and no longer uses it:
/// another thread drops that.
#[cfg(feature = "compile")]
pub(crate) fn leave_descriptors(keep: &Arc<OwnedFd>) -> Result<OwnedFd, Errno> {
    // SAFETY: takes only numbers; descriptors stay open in the table of the other threads.
    checked(unsafe { libc::syscall(libc::SYS_unshare, libc::CLONE_FILES) })?;
    close_others(3, &[keep.as_fd()])?;
    // SAFETY: it is open in the new table, where nothing else owns it: the owner behind `keep` is dropped
    // by a thread of the old table.
    Ok(unsafe { OwnedFd::from_raw_fd(keep.as_raw_fd()) })
}

fn close_range(first: u32, last: u32) -> Result<(), Errno> {
    // SAFETY: called in a copy of the monitor with a descriptor table of its own (no CLONE_FILES). The
    // values that own these descriptors are further up its stack, and it never returns there
    // (`spawn::run_child` diverges), so no owner uses or closes a number that was opened anew. Or called
    // in a thread with a table of its own, which owns none of them (`leave_descriptors`).
    checked(unsafe { libc::syscall(libc::SYS_close_range, first, last, 0u32) }).map(drop)
}

/// Sends the signal with this number, including real-time signals.
///
/// # Errors
/// ESRCH when the process has ended, EINVAL when the kernel has no such signal.
#[cfg(feature = "compile")]
pub fn pidfd_send_signal(process: impl AsFd, signal: i32) -> Result<(), Errno> {
    let (process, no_info) = (process.as_fd().as_raw_fd(), std::ptr::null::<u8>());
    // SAFETY: numbers and a null pointer, for which the kernel fills in the sender.
    checked(unsafe { libc::syscall(libc::SYS_pidfd_send_signal, process, signal, no_info, 0u32) }).map(drop)
}

/// KEYCTL_JOIN_SESSION_KEYRING and KEYCTL_SETPERM of linux/keyctl.h.
const JOIN_SESSION_KEYRING: c_long = 1;
const SET_PERMISSIONS: c_long = 5;

/// Moves this process from its session keyring to the one called `name`, which is made when this user may
/// search none of that name; without a name, to a new one. Returns its serial number.
pub(crate) fn join_session_keyring(name: Option<&CStr>) -> Result<c_long, Errno> {
    let name = name.map_or(std::ptr::null(), CStr::as_ptr);
    // SAFETY: the name is null or a C string that outlives the call, which only reads it.
    checked(unsafe { libc::syscall(libc::SYS_keyctl, JOIN_SESSION_KEYRING, name) })
}

/// Sets the permission bits (KEY_POS_, KEY_USR_ ... of linux/key.h) of a key.
pub(crate) fn set_key_permissions(key: c_long, permissions: u32) -> Result<(), Errno> {
    // SAFETY: takes only numbers.
    checked(unsafe { libc::syscall(libc::SYS_keyctl, SET_PERMISSIONS, key, permissions) }).map(drop)
}

/// Lets this process run on every CPU of its cpuset, whatever its parent was bound to.
pub(crate) fn reset_cpu_affinity() -> Result<(), Errno> {
    // 8,192 CPUs, the largest number that a kernel can be built for; it ignores the bits beyond its own.
    let all = [u64::MAX; 128];
    // SAFETY: `all` is a CPU mask of the size given, only read; process 0 is the caller.
    checked(unsafe { libc::syscall(libc::SYS_sched_setaffinity, 0, size_of_val(&all), all.as_ptr()) })
        .map(drop)
}
