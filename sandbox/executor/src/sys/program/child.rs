//! The child between its clone and its exec.

use std::ffi::{CStr, c_char, c_long};
use std::os::fd::RawFd;
use std::ptr;

use rustix::io::Errno;
use rustix::process::Pid;

use super::ProgramError;
use crate::sys::{checked, close_on_exec_from, exit, reset_signals};

/// Soft limit of open files of a program for others.
const OPEN_FILES: u64 = 1024;

/// The child's data, in the memory that it shares with the parent. The child allocates nothing and takes no
/// lock: another thread of the parent may hold it.
pub(super) struct Child<'a> {
    /// With an empty path; AT_FDCWD with another one.
    pub(super) file: RawFd,
    pub(super) path: *const c_char,
    pub(super) namespaces: Option<(RawFd, i32)>,
    pub(super) tasks: &'a [RawFd],
    /// The process with which it ends.
    pub(super) caller: Option<Pid>,
    pub(super) for_others: bool,
    /// The folder of a v2 cgroup that it could not be born in.
    pub(super) cgroup: Option<RawFd>,
    pub(super) stdio: [RawFd; 3],
    pub(super) args: *const *const c_char,
    pub(super) env: *const *const c_char,
    /// Written by the child; the parent reads it after the child has ended.
    pub(super) failed: Option<ProgramError>,
}

impl Child<'_> {
    /// Returns only on failure.
    fn run(&self) -> ProgramError {
        reset_signals();
        match self.prepare() {
            Ok(()) => ProgramError { step: "exec", errno: self.exec() },
            Err(error) => error,
        }
    }

    fn prepare(&self) -> Result<(), ProgramError> {
        let failed = |step| move |errno| ProgramError { step, errno };
        // SAFETY: no memory is involved.
        checked(unsafe { libc::syscall(libc::SYS_setsid) }).map_err(failed("make a session"))?;
        if self.for_others {
            // The kernel does not let each caller lower the score: then it has more than usual.
            match write_file(libc::AT_FDCWD, c"/proc/self/oom_score_adj") {
                Ok(()) | Err(Errno::ACCESS | Errno::PERM) => {}
                Err(errno) => return Err(failed("set its OOM score")(errno)),
            }
            limit_open_files().map_err(failed("limit its open files"))?;
        }
        self.join().map_err(failed("join its cgroups and namespaces"))?;
        let root: *const c_char = c"/".as_ptr();
        // SAFETY: a C string, only read.
        checked(unsafe { libc::syscall(libc::SYS_chdir, root) }).map_err(failed("enter the root folder"))?;
        for (number, fd) in (0..).zip(self.stdio) {
            let (number, flags): (c_long, c_long) = (number, 0);
            // SAFETY: the child has a descriptor table of its own (no CLONE_FILES), and no code
            // in it that owns what had this number: it execs or ends.
            checked(unsafe { libc::syscall(libc::SYS_dup3, fd, number, flags) })
                .map_err(failed("connect its streams"))?;
        }
        close_on_exec_from(3).map_err(failed("close descriptors"))
    }

    /// Joins cgroups and namespaces. A new mount namespace comes with its root.
    fn join(&self) -> Result<(), Errno> {
        if let Some(cgroup) = self.cgroup {
            write_file(cgroup, c"cgroup.procs")?;
        }
        for tasks in self.tasks {
            // SAFETY: one byte of a constant, only read. `0` is the writer.
            checked(unsafe { libc::syscall(libc::SYS_write, *tasks, c"0".as_ptr(), 1usize) })?;
        }
        if let Some((process, bits)) = self.namespaces {
            // SAFETY: no memory is involved. This process has one thread, and a root folder of its own (no CLONE_FS).
            checked(unsafe { libc::syscall(libc::SYS_setns, process, bits) })?;
            if bits & libc::CLONE_NEWUSER != 0 {
                self.become_root()?;
            }
        }
        if let Some(caller) = self.caller {
            let (option, signal) = (libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            // SAFETY: no memory is involved.
            checked(unsafe { libc::syscall(libc::SYS_prctl, option, signal, 0, 0, 0) })?;
            // The caller may have ended before that: it sends no signal any more.
            if rustix::process::getppid() != Some(caller) {
                return Err(Errno::SRCH);
            }
        }
        Ok(())
    }

    /// Until then it is a user that does not exist in its user namespace.
    fn become_root(&self) -> Result<(), Errno> {
        let none: *const u32 = ptr::null();
        // SAFETY: a list without elements, and numbers.
        checked(unsafe { libc::syscall(libc::SYS_setgroups, 0, none) })?;
        // SAFETY: no memory is involved.
        checked(unsafe { libc::syscall(libc::SYS_setresgid, 0, 0, 0) })?;
        // SAFETY: no memory is involved.
        checked(unsafe { libc::syscall(libc::SYS_setresuid, 0, 0, 0) }).map(drop)
    }

    fn exec(&self) -> Errno {
        // SAFETY: the path is a C string, both arrays end with null and outlive the call: the parent
        // owns them and does not run before this process has exec'd or ended (CLONE_VFORK).
        let result = unsafe {
            libc::syscall(libc::SYS_execveat, self.file, self.path, self.args, self.env, libc::AT_EMPTY_PATH)
        };
        checked(result).err().unwrap_or(Errno::IO)
    }
}

/// Writes `0`, which to a cgroup is the writer. For the child.
fn write_file(folder: RawFd, path: &CStr) -> Result<(), Errno> {
    let flags = libc::O_WRONLY | libc::O_CLOEXEC;
    // SAFETY: a C string, only read. The descriptor is the child's alone.
    let file = checked(unsafe { libc::syscall(libc::SYS_openat, folder, path.as_ptr(), flags, 0) })?;
    // SAFETY: one byte of a constant, only read.
    checked(unsafe { libc::syscall(libc::SYS_write, file, c"0".as_ptr(), 1usize) }).map(drop)
}

/// A program that uses select(2) fails with higher numbers of files, and a server usually has a higher limit. For the
/// child.
fn limit_open_files() -> Result<(), Errno> {
    let mut limit = libc::rlimit64 { rlim_cur: 0, rlim_max: 0 };
    let (old, none): (*mut libc::rlimit64, *const libc::rlimit64) = (&raw mut limit, ptr::null());
    let this = |new: *const libc::rlimit64, old: *mut libc::rlimit64| {
        // SAFETY: both are null or a limit of the child.
        checked(unsafe { libc::syscall(libc::SYS_prlimit64, 0, libc::RLIMIT_NOFILE, new, old) })
    };
    this(none, old)?;
    limit.rlim_cur = limit.rlim_max.min(OPEN_FILES);
    this(&raw const limit, ptr::null_mut()).map(drop)
}

/// The only function that the child runs.
pub(super) extern "C" fn enter(child: *mut Child<'_>) -> ! {
    // SAFETY: `vfork` passes a valid pointer, and the thread that owns it is suspended until the child has
    // exec'd or ended.
    let child = unsafe { &mut *child };
    child.failed = Some(child.run());
    exit(127)
}
