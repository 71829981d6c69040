//! Starts a program from a process with many threads, directly in a cgroup.
//!
//! The standard library can start programs, but only in the cgroup of the caller. A process that then moves
//! itself into another v2 cgroup waits for an RCU grace period, 8-15 ms on an idle host.

use std::ffi::{CStr, CString, c_char, c_long};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use rustix::io::{Errno, fcntl_dupfd_cloexec};
use rustix::process::Pid;

use super::{
    CLONE_INTO_CGROUP, CloneArgs, SIGSET, Strings, checked, close_on_exec_from, exit, reset_signals,
};

/// A program to run separately from the caller: in a session of its own, in the root folder, with the default
/// action for every signal and with no descriptors except for 0, 1 and 2.
#[derive(Debug)]
pub struct Program<'a> {
    pub file: ProgramFile<'a>,
    /// The first argument is the name.
    pub args: &'a [CString],
    /// `NAME=value`. There is no other environment.
    pub env: &'a [CString],
    pub stdio: [BorrowedFd<'a>; 3],
    /// Folder of the v2 cgroup in which it starts.
    pub cgroup: Option<BorrowedFd<'a>>,
    pub place: Place<'a>,
}

/// The file of a program.
#[derive(Debug, Clone, Copy)]
pub enum ProgramFile<'a> {
    /// An executable, not a script.
    Open(BorrowedFd<'a>),
    /// A path in the mount namespace of the program.
    Path(&'a CStr),
}

/// Where a program runs. The default is the place of the caller.
#[derive(Debug, Clone, Copy, Default)]
pub struct Place<'a> {
    /// A process whose namespaces it joins, without the PID namespace: its pidfd, and their CLONE_NEW* bits.
    pub namespaces: Option<(BorrowedFd<'a>, i32)>,
    /// `tasks` files, open for writing, of the v1 cgroups that it joins.
    pub v1_tasks: &'a [OwnedFd],
    /// Whether it is killed when the thread that starts it ends.
    pub ends_with_caller: bool,
    /// Whether it is for others than this program: with the OOM score and the soft limit of open files that programs
    /// usually have, and in its cgroup in any case, or not at all.
    pub for_others: bool,
}

/// A running program.
#[derive(Debug)]
pub struct Spawned {
    pub pid: i32,
    /// A child of this process: readable when it has ended, and the caller must then wait for it.
    pub pidfd: OwnedFd,
    /// Whether it started in the cgroup. Kernels before 5.7 and some delegation rules do not allow that; the
    /// process can then still move itself.
    pub in_cgroup: bool,
}

/// The step at which starting a program failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{step}: {}", std::io::Error::from(*errno))]
pub struct ProgramError {
    pub step: &'static str,
    pub errno: Errno,
}

impl Program<'_> {
    /// Starts the program. Returns after its exec.
    ///
    /// # Errors
    /// [`ProgramError`]; then no process is left.
    pub fn spawn(&self) -> Result<Spawned, ProgramError> {
        let failed = |step| move |errno| ProgramError { step, errno };
        // Higher than the numbers that the program's own streams get.
        let above = |fd: BorrowedFd<'_>| fcntl_dupfd_cloexec(fd, 3).map_err(failed("copy a descriptor"));
        let [stdin, stdout, stderr] = self.stdio;
        let stdio = [above(stdin)?, above(stdout)?, above(stderr)?];
        let file = match self.file {
            ProgramFile::Open(file) => Some(above(file)?),
            ProgramFile::Path(_) => None,
        };
        let path = match self.file {
            ProgramFile::Open(_) => c"",
            ProgramFile::Path(path) => path,
        };
        let namespaces = self.place.namespaces;
        let process = namespaces.map(|(process, _)| above(process)).transpose()?;
        let tasks = self.place.v1_tasks.iter().map(|fd| above(fd.as_fd())).collect::<Result<Vec<_>, _>>()?;
        let tasks: Vec<RawFd> = tasks.iter().map(AsRawFd::as_raw_fd).collect();
        let (args, env) = (Strings::new(self.args), Strings::new(self.env));
        let mut child = Child {
            file: file.as_ref().map_or(libc::AT_FDCWD, AsRawFd::as_raw_fd),
            path: path.as_ptr(),
            namespaces: process
                .as_ref()
                .zip(namespaces)
                .map(|(process, (_, bits))| (process.as_raw_fd(), bits)),
            tasks: &tasks,
            caller: self.place.ends_with_caller.then(rustix::process::getpid),
            for_others: self.place.for_others,
            cgroup: None,
            stdio: stdio.each_ref().map(AsRawFd::as_raw_fd),
            args: args.pointers.as_ptr(),
            env: env.pointers.as_ptr(),
            failed: None,
        };
        // The child changes it for this process too when it enters a user namespace, as they share their memory.
        let dumpable = rustix::process::dumpable_behavior();
        let cloned = clone_or_not_into(self.cgroup, &mut child);
        if namespaces.is_some_and(|(_, bits)| bits & libc::CLONE_NEWUSER != 0)
            && let Ok(before) = dumpable
        {
            let _ = rustix::process::set_dumpable_behavior(before);
        }
        let (cloned, in_cgroup) = match cloned {
            Ok(cloned) => cloned,
            Err(errno) => return Err(failed("clone")(errno)),
        };
        match child.failed {
            None => Ok(Spawned { pid: cloned.0, pidfd: cloned.1, in_cgroup }),
            Some(error) => {
                // The process has ended or is about to: nothing else is left of it.
                let _ = rustix::process::waitid(
                    rustix::process::WaitId::PidFd(cloned.1.as_fd()),
                    rustix::process::WaitIdOptions::EXITED,
                );
                Err(error)
            }
        }
    }
}

fn clone_or_not_into(
    cgroup: Option<BorrowedFd<'_>>,
    child: &mut Child<'_>,
) -> Result<((i32, OwnedFd), bool), Errno> {
    if cgroup.is_some() {
        match vfork(cgroup, child) {
            Ok(cloned) => return Ok((cloned, true)),
            Err(
                Errno::NOSYS | Errno::INVAL | Errno::TOOBIG | Errno::OPNOTSUPP | Errno::ACCESS | Errno::BUSY,
            ) => {}
            Err(errno) => return Err(errno),
        }
    }
    child.cgroup = cgroup.filter(|_| child.for_others).map(|cgroup| cgroup.as_raw_fd());
    Ok((vfork(None, child)?, child.cgroup.is_some()))
}

/// The child's data, in the memory that it shares with the parent. The child allocates nothing and takes no
/// lock: another thread of the parent may hold it.
struct Child<'a> {
    /// With an empty path; AT_FDCWD with another one.
    file: RawFd,
    path: *const c_char,
    namespaces: Option<(RawFd, i32)>,
    tasks: &'a [RawFd],
    /// The process with which it ends.
    caller: Option<Pid>,
    for_others: bool,
    /// The folder of a v2 cgroup that it could not be born in.
    cgroup: Option<RawFd>,
    stdio: [RawFd; 3],
    args: *const *const c_char,
    env: *const *const c_char,
    /// Written by the child; the parent reads it after the child has ended.
    failed: Option<ProgramError>,
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
extern "C" fn enter(child: *mut Child<'_>) -> ! {
    // SAFETY: `vfork` passes a valid pointer, and the thread that owns it is suspended until the child has
    // exec'd or ended.
    let child = unsafe { &mut *child };
    child.failed = Some(child.run());
    exit(127)
}

/// Soft limit of open files of a program for others.
const OPEN_FILES: u64 = 1024;
/// Size of the child's stack; it uses a small part.
const STACK: usize = 64 << 10;

/// Clones a process that runs [`enter`] in this process's memory, on a stack of its own, and waits
/// until it has exec'd or ended.
fn vfork(cgroup: Option<BorrowedFd<'_>>, child: &mut Child<'_>) -> Result<(i32, OwnedFd), Errno> {
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
fn set_signal_mask(mask: u64) -> u64 {
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

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::process::Command;

    use super::*;

    fn run(args: &[&str], cgroup: Option<BorrowedFd<'_>>) -> (Spawned, String) {
        let file = std::fs::File::open("/bin/sh").unwrap();
        let args: Vec<CString> = args.iter().map(|arg| CString::new(*arg).unwrap()).collect();
        let null = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null").unwrap();
        let (mut reader, writer) = std::io::pipe().unwrap();
        let stdio = [null.as_fd(), writer.as_fd(), writer.as_fd()];
        let (file, place) = (ProgramFile::Open(file.as_fd()), Place::default());
        let spawned = Program { file, args: &args, env: &[], stdio, cgroup, place }.spawn().unwrap();
        drop(writer);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        let options = rustix::process::WaitIdOptions::EXITED;
        let end = rustix::process::waitid(rustix::process::WaitId::PidFd(spawned.pidfd.as_fd()), options);
        assert_eq!(end.unwrap().unwrap().exit_status(), Some(0), "{text}");
        (spawned, text)
    }

    #[test]
    fn a_program_has_its_streams_and_nothing_of_the_callers() {
        // A descriptor that is not close-on-exec, an ignored and a blocked signal.
        let leak = rustix::io::dup(std::io::stdout()).unwrap();
        let before = set_signal_mask(1 << (libc::SIGUSR1 - 1));
        let script = "echo $0 $1; pwd; readlink /proc/self/fd/* | grep -c .; env | grep -c HOME; \
                      grep -E 'SigBlk|SigIgn' /proc/self/status";
        let (spawned, text) = run(&["name", "-c", script, "zero", "one"], None);
        set_signal_mask(before);
        drop(leak);
        assert!(!spawned.in_cgroup);
        let lines: Vec<&str> = text.lines().collect();
        // Three streams. The shell expands /proc/self/fd before it opens any other descriptor.
        assert_eq!(lines[..4], ["zero one", "/", "3", "0"], "{text}");
        assert!(lines[4..].iter().all(|line| line.ends_with("0000000000000000")), "{text}");
    }

    #[test]
    fn a_program_leads_a_session() {
        let (spawned, text) = run(&["sh", "-c", "cut -d ' ' -f 6 /proc/$$/stat"], None);
        assert_eq!(text.trim().parse(), Ok(spawned.pid));
    }

    #[test]
    fn a_file_that_cannot_be_run_is_an_error_and_leaves_no_process() {
        let file = std::fs::File::open("/etc/passwd").unwrap();
        let args = [c"passwd".to_owned()];
        let stdio = [file.as_fd(); 3];
        let (open, place) = (ProgramFile::Open(file.as_fd()), Place::default());
        let program = Program { file: open, args: &args, env: &[], stdio, cgroup: None, place };
        let error = program.spawn().unwrap_err();
        assert_eq!((error.step, error.errno), ("exec", Errno::ACCESS));
        let children = format!("/proc/self/task/{}/children", rustix::thread::gettid().as_raw_nonzero());
        assert_eq!(std::fs::read_to_string(children).unwrap_or_default(), "");
    }

    #[test]
    fn programs_start_while_other_threads_allocate() {
        let stop = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                        drop(std::hint::black_box(vec![1u8; 5000]));
                    }
                });
            }
            let starters: Vec<_> = (0..3)
                .map(|_| {
                    scope.spawn(|| {
                        (0..40).map(|n| run(&["sh", "-c", &format!("echo {n}")], None).1).collect::<String>()
                    })
                })
                .collect();
            let starters: Vec<_> = starters.into_iter().map(|starter| starter.join().unwrap()).collect();
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
            let expected: String = (0..40).map(|n| format!("{n}\n")).collect();
            assert_eq!(starters, [expected.clone(), expected.clone(), expected]);
        });
    }

    #[test]
    fn a_program_is_born_in_its_cgroup() {
        crisp_skip::needs!();
        let hierarchies = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"].map(std::path::Path::new);
        let Some(v2) = hierarchies.into_iter().find(|path| path.join("cgroup.controllers").exists()) else {
            crisp_skip::unsupported!(CgroupV2);
        };
        let name = format!("crisp-program-test-{}", std::process::id());
        let path = v2.join(&name);
        std::fs::create_dir(&path).unwrap();
        let folder = std::fs::File::open(&path).unwrap();
        let (spawned, text) = run(&["sh", "-c", "cat /proc/self/cgroup"], Some(folder.as_fd()));
        let removed = Command::new("rmdir").arg(&path).status().unwrap();
        assert!(spawned.in_cgroup && removed.success());
        assert!(text.lines().any(|line| line == format!("0::/{name}")), "{text}");
    }
}
