//! System calls that rustix does not offer in a safe form. The only unsafe code of this crate.
//!
//! Every function here is safe to call: the types of the arguments guarantee what the kernel requires. All
//! are raw system calls of one thread; none of the C library's wrappers that act on the whole process is
//! used, because the callers are single-threaded children.
#![allow(unsafe_code)]

#[cfg(feature = "compile")]
pub(crate) mod bpf;
#[cfg(feature = "compile")]
mod memory;
mod mount;
mod process;
#[cfg(feature = "compile")]
pub(crate) mod program;
mod shared;

use std::convert::Infallible;
use std::ffi::{CStr, CString, c_char, c_int, c_long, c_ulong};
use std::marker::PhantomData;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::OnceLock;

use rustix::io::Errno;

#[cfg(feature = "compile")]
pub use memory::{give_freed_memory_back, give_large_buffers_back, give_program_pages_back};
#[cfg(feature = "compile")]
pub(crate) use mount::unshare_mount_namespace;
pub(crate) use mount::{MountAttr, mount_setattr};
#[cfg(feature = "compile")]
pub(crate) use process::leave_descriptors;
#[cfg(feature = "compile")]
pub use process::pidfd_send_signal;
pub(crate) use process::{
    close_others, close_these, join_session_keyring, reset_cpu_affinity, set_key_permissions,
};

pub(crate) use shared::SharedNumber;

/// Converts `-1` and errno to an error.
fn checked(result: c_long) -> Result<c_long, Errno> {
    if result >= 0 {
        return Ok(result);
    }
    let number = std::io::Error::last_os_error().raw_os_error();
    Err(Errno::from_raw_os_error(number.unwrap_or(libc::EIO)))
}

/// The process in which [`clone3`] returned.
pub(crate) enum Cloned {
    Parent {
        pid: i32,
        pidfd: OwnedFd,
    },
    /// A copy of the caller. It must end in [`execve`] or [`exit`], never return to its caller's caller.
    Child,
}

/// `struct clone_args` as of Linux 5.7 (88 bytes), clone3(2).
#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Forks with `flags` (CLONE_NEW* bits, CLONE_PARENT) and a pidfd. If `cgroup` is given (an open v2 folder),
/// the child starts in it. When the child ends, its parent gets SIGCHLD; with CLONE_PARENT that is the
/// caller's parent.
pub(crate) fn clone3(flags: u64, cgroup: Option<BorrowedFd<'_>>) -> Result<Cloned, Errno> {
    clone_and_store(flags, cgroup, None)
}

/// Forks a child of the caller's parent. Before it runs the kernel stores in `number` which process it is.
pub(crate) fn clone_sibling(number: &SharedNumber) -> Result<Cloned, Errno> {
    clone_and_store(libc::CLONE_PARENT as u64, None, Some(number))
}

fn clone_and_store(
    flags: u64,
    cgroup: Option<BorrowedFd<'_>>,
    number: Option<&SharedNumber>,
) -> Result<Cloned, Errno> {
    const SHARED: u64 = (libc::CLONE_VM | libc::CLONE_FILES | libc::CLONE_SIGHAND) as u64;
    let sibling = flags & libc::CLONE_PARENT as u64 != 0;
    let mut pidfd: RawFd = -1;
    let mut args = CloneArgs {
        flags: flags & !SHARED | libc::CLONE_PIDFD as u64,
        pidfd: &raw mut pidfd as u64,
        // For a sibling the kernel uses the exit signal of the caller.
        exit_signal: if sibling { 0 } else { libc::SIGCHLD as u64 },
        ..CloneArgs::default()
    };
    if let Some(number) = number {
        args.flags |= libc::CLONE_PARENT_SETTID as u64;
        args.parent_tid = number.place();
    }
    if let Some(cgroup) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = cgroup.as_raw_fd() as u64;
    }
    // SAFETY: `args` is a valid clone_args of the size given; without CLONE_VM and without a stack
    // the child runs on a private copy of this memory, as after fork, so nothing here is ever seen
    // by two owners. `pidfd` and `number` outlive the call. A lock that another thread held would stay locked in
    // the child, which could make it wait but not make it unsound.
    let result = unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of::<CloneArgs>()) };
    match checked(result)? {
        0 => Ok(Cloned::Child),
        pid => {
            // SAFETY: the kernel has just made this descriptor for us (CLONE_PIDFD); nothing else owns it.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            Ok(Cloned::Parent { pid: i32::try_from(pid).unwrap_or(i32::MAX), pidfd })
        }
    }
}

/// Ends the process at once, without destructors or exit handlers that were copied from the parent.
pub(crate) fn exit(code: i32) -> ! {
    // SAFETY: _exit has no preconditions.
    unsafe { libc::_exit(code) }
}

/// A null-terminated array of C strings, as execve requires it.
pub(crate) struct Strings<'a> {
    pointers: Vec<*const c_char>,
    strings: PhantomData<&'a [CString]>,
}

impl<'a> Strings<'a> {
    pub(crate) fn new(strings: &'a [CString]) -> Self {
        let pointers = strings.iter().map(|s| s.as_ptr()).chain([std::ptr::null()]).collect();
        Self { pointers, strings: PhantomData }
    }
}

/// Returns only on failure.
pub(crate) fn execve(path: &CStr, args: &Strings<'_>, env: &Strings<'_>) -> Errno {
    let (args, env) = (args.pointers.as_ptr(), env.pointers.as_ptr());
    // SAFETY: all three are null-terminated and borrowed for as long as this runs (`Strings::new`).
    let result = unsafe { libc::syscall(libc::SYS_execve, path.as_ptr(), args, env) };
    checked(result).err().unwrap_or(Errno::IO)
}

/// Marks every descriptor from `first` on close-on-exec.
pub(crate) fn close_on_exec_from(first: u32) -> Result<(), Errno> {
    const CLOSE_RANGE_CLOEXEC: u32 = 4;
    // SAFETY: changes only flags of descriptors; their owners stay valid.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, CLOSE_RANGE_CLOEXEC) };
    checked(result).map(drop)
}

/// Closes every descriptor, then runs `then`: it never returns to code that could use one.
pub(crate) fn without_descriptors(then: impl FnOnce() -> Infallible) -> ! {
    // SAFETY: owners of these descriptors exist up the stack, but `then` never returns to them and
    // this process is a copy with a descriptor table of its own, so no close can hit a reused number.
    unsafe { libc::syscall(libc::SYS_close_range, 0u32, u32::MAX, 0u32) };
    match then() {}
}

/// `struct sigaction` of the kernel on 64-bit machines; all zero is SIG_DFL without flags.
#[repr(C)]
#[derive(Default)]
struct KernelSigaction {
    handler: usize,
    flags: c_ulong,
    restorer: usize,
    mask: u64,
}

/// Size of a kernel signal set in bytes.
const SIGSET: usize = 8;

fn set_disposition(signal: c_int, handler: usize) {
    let action = KernelSigaction { handler, ..KernelSigaction::default() };
    let old: *mut KernelSigaction = std::ptr::null_mut();
    // SAFETY: `action` is at least as large as any 64-bit kernel's sigaction and only read; SIG_DFL
    // and SIG_IGN run no code of ours. SIGKILL and SIGSTOP are refused, which is fine.
    unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, &raw const action, old, SIGSET) };
}

/// The signals that this process ignores: bit 0 for signal 1. Queried once, and inherited by copies of the
/// process: a process that starts others does not change them later.
pub(crate) fn ignored_signals() -> u64 {
    static IGNORED: OnceLock<u64> = OnceLock::new();
    *IGNORED
        .get_or_init(|| (1..=64).filter(|signal| is_ignored(*signal)).map(|signal| 1 << (signal - 1)).sum())
}

fn is_ignored(signal: c_int) -> bool {
    let mut action = KernelSigaction::default();
    let new: *const KernelSigaction = std::ptr::null();
    // SAFETY: `action` is at least as large as any 64-bit kernel's sigaction, and only written; nothing is changed.
    unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, new, &raw mut action, SIGSET) };
    action.handler == libc::SIG_IGN
}

/// Resets ignored signals to their default and unblocks all: an exec keeps ignored and blocked signals, but
/// no handlers. Not for a process that shares its memory with one that has handlers.
pub(crate) fn accept_signals() {
    let ignored = ignored_signals();
    for signal in (1..=64).filter(|signal| ignored >> (signal - 1) & 1 == 1) {
        set_disposition(signal, libc::SIG_DFL);
    }
    unblock_signals();
}

/// Like [`accept_signals`], and also resets handlers.
pub(crate) fn reset_signals() {
    for signal in 1..=64 {
        set_disposition(signal, libc::SIG_DFL);
    }
    unblock_signals();
}

fn unblock_signals() {
    let empty = 0u64;
    let old: *mut u64 = std::ptr::null_mut();
    // SAFETY: `empty` is a kernel signal set of the size given, only read.
    unsafe { libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, &raw const empty, old, SIGSET) };
}

/// Waits for ever. The kernel reaps the children of this process, including adopted ones.
pub(crate) fn reap_forever() -> Infallible {
    set_disposition(libc::SIGCHLD, libc::SIG_IGN);
    loop {
        // SAFETY: no arguments, no memory.
        unsafe { libc::pause() };
    }
}

/// Moves the process into new namespaces for `flags` (CLONE_NEWNS, CLONE_NEWNET, CLONE_NEWIPC, CLONE_NEWUTS).
pub(crate) fn unshare_namespaces(flags: c_int) -> Result<(), Errno> {
    const ALL: c_int = libc::CLONE_NEWNS | libc::CLONE_NEWNET | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;
    // SAFETY: touches neither memory nor descriptors, as no other flag is let through.
    checked(unsafe { libc::syscall(libc::SYS_unshare, flags & ALL) }).map(drop)
}

/// Moves the process into a new cgroup namespace, whose roots are its present cgroups.
pub(crate) fn unshare_cgroup_namespace() -> Result<(), Errno> {
    // SAFETY: touches neither memory nor descriptors.
    checked(unsafe { libc::syscall(libc::SYS_unshare, libc::CLONE_NEWCGROUP) }).map(drop)
}

/// Opens the user namespace that owns `namespace`, a namespace of another kind: NS_GET_USERNS of
/// ioctl_nsfs(2).
pub(crate) fn user_namespace_of(namespace: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    const NS_GET_USERNS: c_ulong = 0xb701;
    // SAFETY: the operation takes no argument.
    let fd = checked(unsafe { libc::syscall(libc::SYS_ioctl, namespace.as_raw_fd(), NS_GET_USERNS) })?;
    let fd = RawFd::try_from(fd).map_err(|_| Errno::BADF)?;
    // SAFETY: the kernel has just made this descriptor for us; nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Soft and hard limit of one resource.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limit {
    pub soft: u64,
    pub hard: u64,
}

/// Calls prlimit64(2) for this process: sets `new` when given, returns the limit before that.
pub(crate) fn limit(resource: u32, new: Option<Limit>) -> Result<Limit, Errno> {
    prlimit(0, resource, new)
}

/// Returns the limit of a process. EPERM without CAP_SYS_RESOURCE, if it runs as another user.
pub(crate) fn limit_of(pid: i32, resource: u32) -> Result<Limit, Errno> {
    prlimit(pid, resource, None)
}

fn prlimit(pid: i32, resource: u32, new: Option<Limit>) -> Result<Limit, Errno> {
    let mut old = Limit { soft: 0, hard: 0 };
    let new = new.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: `new` is null or points to a live rlimit64, `old` is one that may be written.
    checked(unsafe { libc::syscall(libc::SYS_prlimit64, pid, resource, new, &raw mut old) })?;
    Ok(old)
}

fn prctl(operation: c_int, a: c_ulong, b: c_ulong) -> Result<(), Errno> {
    let zero: c_ulong = 0;
    // SAFETY: only called below, with operations whose arguments are plain numbers.
    checked(unsafe { libc::syscall(libc::SYS_prctl, operation, a, b, zero, zero) }).map(drop)
}

/// Drops a capability from the bounding set; EINVAL when the kernel has no capability of that number.
pub(crate) fn drop_bounding(capability: u32) -> Result<(), Errno> {
    prctl(libc::PR_CAPBSET_DROP, capability.into(), 0)
}

/// Adds a capability to the ambient set.
pub(crate) fn raise_ambient(capability: u32) -> Result<(), Errno> {
    prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_RAISE as c_ulong, capability.into())
}

/// Loads a filter (`struct sock_filter` array, host byte order) for this thread and the programs that it
/// executes.
pub(crate) fn load_seccomp(program: &[u8], flags: u32) -> Result<(), Errno> {
    #[repr(C)]
    struct Program {
        length: u16,
        filter: *const u8,
    }
    let length = u16::try_from(program.len() / 8).map_err(|_| Errno::INVAL)?;
    if !program.len().is_multiple_of(8) {
        return Err(Errno::INVAL);
    }
    let program = Program { length, filter: program.as_ptr() };
    // SAFETY: `program` is a sock_fprog whose filter has the given length; the kernel copies it without
    // regard to alignment and checks every instruction.
    let result =
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program) };
    checked(result).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_call_carries_its_error_number() {
        assert_eq!(load_seccomp(&[0; 7], 0), Err(Errno::INVAL));
        assert_eq!(limit(9999, None), Err(Errno::INVAL));
        assert_eq!(drop_bounding(4096), Err(Errno::INVAL));
        let none = Strings::new(&[]);
        assert_eq!(execve(c"/no/such/program", &none, &none), Errno::NOENT);
    }

    #[test]
    fn a_child_is_a_copy_with_a_pidfd() {
        match clone3(0, None).unwrap() {
            Cloned::Child => exit(7),
            Cloned::Parent { pid, pidfd } => {
                assert!(pid > 1);
                let id = rustix::process::WaitId::PidFd(std::os::fd::AsFd::as_fd(&pidfd));
                let status = rustix::process::waitid(id, rustix::process::WaitIdOptions::EXITED).unwrap();
                assert_eq!(status.and_then(|s| s.exit_status()), Some(7));
            }
        }
    }
}
