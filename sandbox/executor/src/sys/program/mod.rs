//! Starts a program from a process with many threads, directly in a cgroup.
//!
//! The standard library can start programs, but only in the cgroup of the caller. A process that then moves
//! itself into another v2 cgroup waits for an RCU grace period, 8-15 ms on an idle host.

mod child;
#[cfg(test)]
mod tests;
mod vfork;

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use rustix::io::{Errno, fcntl_dupfd_cloexec};

use self::child::Child;
use self::vfork::vfork;
use super::Strings;

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
    pub options: SpawnOptions<'a>,
}

/// The file of a program.
#[derive(Debug, Clone, Copy)]
pub enum ProgramFile<'a> {
    /// An executable, not a script.
    Open(BorrowedFd<'a>),
    /// A path in the mount namespace of the program.
    Path(&'a CStr),
}

/// Differences from a program that runs where the caller does.
#[derive(Debug, Clone, Copy, Default)]
pub struct SpawnOptions<'a> {
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
        let namespaces = self.options.namespaces;
        let process = namespaces.map(|(process, _)| above(process)).transpose()?;
        let tasks =
            self.options.v1_tasks.iter().map(|fd| above(fd.as_fd())).collect::<Result<Vec<_>, _>>()?;
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
            caller: self.options.ends_with_caller.then(rustix::process::getpid),
            for_others: self.options.for_others,
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
