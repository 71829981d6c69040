//! Functions of the kernel and the C library that are unsafe. The only unsafe code of this crate.
#![allow(unsafe_code)] // the one home for it, see above

use std::mem::offset_of;
use std::os::fd::{AsRawFd as _, FromRawFd, OwnedFd};

use rustix::io::Errno;
use rustix::process::{Pid, Signal};
use rustix::thread::UnshareFlags;

fn last_error() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}

/// Makes the allocator return freed memory: a monitor is idle for nearly all of its life. Not after each
/// request, which would then enter the kernel two or three times to grow the heap again: [`rest`] returns all.
pub(crate) fn small_heap() {
    for (setting, value) in
        [(libc::M_MMAP_THRESHOLD, 32 << 10), (libc::M_TRIM_THRESHOLD, 128 << 10), (libc::M_TOP_PAD, 32 << 10)]
    {
        // SAFETY: mallopt only stores a number, and no other thread exists.
        unsafe { libc::mallopt(setting, value) };
    }
}

/// Returns freed memory, and the pages of the program that are not needed for waiting: they are in the page
/// cache for all monitors together, and are mapped again on use.
pub(crate) fn rest() {
    // SAFETY: malloc_trim has no preconditions. The range from the start of the program to the end
    // of its code is mapped from a file and never written: dropping its pages changes nothing that
    // could be read there. What is not mapped in between is an error of the call and no more.
    unsafe {
        libc::malloc_trim(0);
        let (start, end) = (&raw const __executable_start as usize, &raw const etext as usize);
        let start = start & !(PAGE - 1);
        libc::madvise(start as *mut libc::c_void, end.saturating_sub(start), libc::MADV_DONTNEED);
    }
}

/// Overwrites `before` with `after` in the memory from which the kernel shows this process's first argument,
/// by which others recognise the monitor of a pod. Both have the same length. Does nothing if the memory has
/// another content.
pub(crate) fn set_first_argument(before: &str, after: &str) {
    // SAFETY: the C library sets the pointer to argv[0] at the start and never again. The kernel lays the
    // arguments out one behind the other, each ending with NUL: behind the NUL of argv[0] there is argv[1], or
    // an environment string, or the name of the program, so that there is a C string to be looked at. It is
    // written only when it is what was expected, within its length, in memory of the stack that nothing
    // borrows: `std::env::args` copies.
    unsafe {
        if program_invocation_name.is_null() {
            return;
        }
        let argument = program_invocation_name.add(libc::strlen(program_invocation_name) + 1);
        let found = std::ffi::CStr::from_ptr(argument).to_bytes();
        if found == before.as_bytes() && after.len() == before.len() {
            std::ptr::copy_nonoverlapping(after.as_ptr().cast(), argument, after.len());
        }
    }
}

const PAGE: usize = 4096;

// Set by the C library.
unsafe extern "C" {
    static program_invocation_name: *mut libc::c_char;
}

// Set by the linker.
unsafe extern "C" {
    static __executable_start: u8;
    static etext: u8;
}

/// Blocks every signal and returns a descriptor for those that [`read_signals`] handles: the end of children,
/// and requests to end.
///
/// No signal except SIGKILL ends a monitor directly; the executor unblocks all of them in new processes.
pub(crate) fn block_signals() -> Result<OwnedFd, Errno> {
    // SAFETY: an all-zero sigset_t is a valid value to be filled by the calls below, which write
    // only within it; sigprocmask in a process of one thread affects nothing else.
    let descriptor = unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        if libc::sigprocmask(libc::SIG_SETMASK, &raw const all, std::ptr::null_mut()) != 0 {
            return Err(last_error());
        }
        let mut taken: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut taken);
        libc::sigaddset(&raw mut taken, libc::SIGCHLD);
        libc::sigaddset(&raw mut taken, libc::SIGTERM);
        libc::signalfd(-1, &raw const taken, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK)
    };
    if descriptor < 0 {
        return Err(last_error());
    }
    // SAFETY: signalfd has just made it; nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// Reads all pending signals. Returns true when the host's init wants this process to end.
pub(crate) fn read_signals(signals: &OwnedFd) -> bool {
    const INIT: u32 = 1;
    let mut ends = false;
    let mut info = [0; size_of::<libc::signalfd_siginfo>()];
    while rustix::io::read(signals, &mut info) == Ok(info.len()) {
        let number = |at: usize| u32::from_ne_bytes([info[at], info[at + 1], info[at + 2], info[at + 3]]);
        let signal = number(offset_of!(libc::signalfd_siginfo, ssi_signo));
        let sender = number(offset_of!(libc::signalfd_siginfo, ssi_pid));
        ends |= signal == libc::SIGTERM.unsigned_abs() && sender == INIT;
    }
    ends
}

/// The process at the other end when the connection was made. None if its PID namespace is not visible here.
pub(crate) fn peer(socket: &OwnedFd) -> Option<Pid> {
    let mut peer = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut length = u32::try_from(size_of::<libc::ucred>()).ok()?;
    // SAFETY: the kernel writes at most `length` bytes, which is the size of `peer`, and any number is valid there.
    let failed = unsafe {
        let (level, option) = (libc::SOL_SOCKET, libc::SO_PEERCRED);
        libc::getsockopt(socket.as_raw_fd(), level, option, (&raw mut peer).cast(), &raw mut length)
    };
    if failed == 0 { Pid::from_raw(peer.pid) } else { None }
}

/// The signal with that number, including real-time signals.
pub(crate) fn signal(number: i32) -> Option<Signal> {
    // SAFETY: numbers from 1 to 64 are signals of the kernel. Two of them are the C library's own,
    // which only matters to a process that handles signals by it: this one blocks all, and
    // a container's C library knows its own.
    (1..=64).contains(&number).then(|| unsafe { Signal::from_raw_unchecked(number) })
}

/// Makes new namespaces for this process.
pub(crate) fn unshare(flags: UnshareFlags) -> Result<(), Errno> {
    let namespaces = flags.difference(UnshareFlags::FILES);
    // SAFETY: only an unshared descriptor table could leave an `OwnedFd` dangling, and that flag is
    // taken out above.
    unsafe { rustix::thread::unshare_unsafe(namespaces) }
}

/// Index of the first `byte`, at the speed of the C library.
pub(crate) fn find(byte: u8, text: &[u8]) -> Option<usize> {
    // SAFETY: reads at most `text.len()` bytes from the start of `text`.
    let found = unsafe { libc::memchr(text.as_ptr().cast(), i32::from(byte), text.len()) };
    if found.is_null() { None } else { Some(found as usize - text.as_ptr() as usize) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn real_time_signals_are_signals() {
        assert_eq!(signal(37).map(Signal::as_raw), Some(37));
        assert_eq!(signal(9), Some(Signal::KILL));
        assert!([0, -1, 65, i32::MIN].into_iter().all(|number| signal(number).is_none()));
    }

    #[test]
    fn find_finds_the_first() {
        assert_eq!(find(b'\n', b"ab\nc\n"), Some(2));
        assert_eq!(find(b'\n', b"abc"), None);
        assert_eq!(find(b'\n', b""), None);
    }
}
