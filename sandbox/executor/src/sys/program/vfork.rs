//! The clone of a process that shares the memory of this one until its exec.

use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use rustix::io::Errno;

use super::child::{Child, enter};
use crate::sys::{CLONE_INTO_CGROUP, CloneArgs, SIGSET};

/// Size of the child's stack; it uses a small part.
const STACK: usize = 64 << 10;

/// Clones a process that runs [`enter`] in this process's memory, on a stack of its own, and waits
/// until it has exec'd or ended.
pub(super) fn vfork(cgroup: Option<BorrowedFd<'_>>, child: &mut Child<'_>) -> Result<(i32, OwnedFd), Errno> {
    let mut stack: Vec<MaybeUninit<u128>> = Vec::with_capacity(STACK / size_of::<u128>());
    let mut pidfd: RawFd = -1;
    let mut args = CloneArgs {
        flags: (libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD) as u64,
        pidfd: &raw mut pidfd as u64,
        exit_signal: libc::SIGCHLD as u64,
        stack: stack.as_mut_ptr() as u64,
        stack_size: STACK as u64,
        ..CloneArgs::default()
    };
    if let Some(cgroup) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = cgroup.as_raw_fd() as u64;
    }
    let blocked = set_signal_mask(u64::MAX);
    // SAFETY: `args` describes a stack that nothing else uses, aligned as functions need it, and
    // a pidfd to be written; all of it and `child` outlive the child's use of this memory, as this
    // thread stands still until then (CLONE_VFORK). The child diverges in `enter`, so it returns
    // into no frame of this thread. No handler of a signal runs in it: all are blocked until it has
    // set them to their defaults in a table of its own (no CLONE_SIGHAND).
    let result = unsafe { clone3_on_stack(&raw mut args, enter, ptr::from_mut(child)) };
    set_signal_mask(blocked);
    drop(stack);
    // The call is raw: a failure is a small negative number.
    if let Ok(errno @ 1..) = i32::try_from(-result) {
        return Err(Errno::from_raw_os_error(errno));
    }
    // SAFETY: the kernel has just made this descriptor for us (CLONE_PIDFD); nothing else owns it.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    Ok((i32::try_from(result).unwrap_or(i32::MAX), pidfd))
}

/// Sets the blocked signals of this thread, including those of the C library; returns the earlier ones.
pub(super) fn set_signal_mask(mask: u64) -> u64 {
    let mut old = 0u64;
    // SAFETY: both are kernel signal sets of the size given.
    unsafe {
        libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, &raw const mask, &raw mut old, SIGSET);
    }
    old
}

/// Calls clone3(2); the child calls `enter(child)` on the stack of `args`. The parent gets the raw result.
///
/// # Safety
/// `args` must name a stack, and `enter` must be able to run with everything that `args` shares with the
/// child.
unsafe fn clone3_on_stack(
    args: *mut CloneArgs,
    enter: extern "C" fn(*mut Child<'_>) -> !,
    child: *mut Child<'_>,
) -> i64 {
    let result: i64;
    // SAFETY: the caller guarantees the above. The child never leaves this block: it has a stack without
    // frames, whose end is aligned to 16 bytes as a call requires.
    unsafe {
        #[cfg(target_arch = "x86_64")]
        std::arch::asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, r9",
            "call r8",
            "ud2",
            "2:",
            inlateout("rax") libc::SYS_clone3 => result,
            in("rdi") args,
            in("rsi") size_of::<CloneArgs>(),
            in("r8") enter,
            in("r9") child,
            lateout("rcx") _,
            lateout("r11") _,
        );
        #[cfg(target_arch = "aarch64")]
        std::arch::asm!(
            "svc #0",
            "cbnz x0, 2f",
            "mov x29, xzr",
            "mov x30, xzr",
            "mov x0, x3",
            "blr x2",
            "brk #1",
            "2:",
            in("x8") libc::SYS_clone3,
            inlateout("x0") args => result,
            in("x1") size_of::<CloneArgs>(),
            in("x2") enter,
            in("x3") child,
        );
    }
    result
}
