//! The run side: a [`Plan`](crate::plan::Plan) becomes a process. Lives in the monitor, which has one thread.
//!
//! ```text
//!  monitor                                child (a copy of the monitor, until execve)
//!  start(plan, fds, stdio, pod)
//!    | setns(pid) when shared
//!    | clone3(NEWNS, NEWPID, INTO_CGROUP) ---> cgroups, private /proc, root and mounts, pivot,
//!    | setns(pid) back                          cwd, limits, credentials, seccomp, execve
//!    v                                            |
//!  Starting { pid, pidfd, report } <--------------+ notes, terminal, failed stage; closes at execve
//! ```
//!
//! The monitor does not wait for the child: it polls [`Report`] and calls [`Report::receive`] when that is
//! readable. It does wait for the helper of a start in a user namespace (`builder`).
//!
//! No process is cloned into a PID namespace in which another one may trace it: a helper that cannot be seen there
//! does what needs rights, and makes the process at the end (`unseen`). [`Starting::helper`] says so.
//!
//! [`detached`] does the same for callers that end before the container does; its processes wait at a
//! [`start_gate`].
//!
//! Cast: [`start`] and [`exec`] make processes, [`Stdio`] is what they talk through, [`PodContext`]
//! what the pod lends them, [`pod_root::enter`] makes the tiny root that the monitor lives in,
//! [`pod_init::start`] the first process of a pod's shared PID namespace, [`inside::Inside`] one that makes
//! things in a user namespace, [`sibling::fork_sibling`] one
//! more monitor, [`StageError`] says which stage failed on what.

mod builder;
mod cgroupfs;
mod child;
mod command;
mod credentials;
mod cwd;
pub mod detached;
mod device_node;
mod devices;
mod diagnose;
mod elf;
pub mod error;
mod filesystem;
mod handover;
mod hooks;
pub mod inside;
mod keyring;
mod limits;
mod masked_paths;
mod mounts;
pub mod pod_init;
pub mod pod_root;
mod prepared;
pub mod procfs;
mod relay;
mod report;
mod reported;
mod setup;
pub mod sibling;
mod spawn;
pub mod start_gate;
mod streams;
pub mod sysctl;
mod terminal;
pub mod unseen;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;

use crate::ids::ContainerId;
use crate::plan::{CgroupJoin, FdIndex, PidNamespace, Plan, Process};
use crate::user_namespace::UserNamespace;
use setup::Setup;
use spawn::{CloneOptions, PidFrom};

pub use error::{Stage, StageError};
pub use report::{Progress, Report};
pub use reported::Reported;
pub use unseen::Helper;

/// The files that become descriptors 0, 1 and 2. `None` is a null device. They are ignored for a process with
/// a terminal, whose master arrives as [`Progress::Terminal`].
#[derive(Debug, Default)]
pub struct Stdio {
    /// Descriptor 0.
    pub stdin: Option<OwnedFd>,
    /// Descriptor 1.
    pub stdout: Option<OwnedFd>,
    /// Descriptor 2.
    pub stderr: Option<OwnedFd>,
    /// Columns and rows of the terminal.
    pub size: Option<(u16, u16)>,
    /// How many of the caller's descriptors, from 3 on, the process has too.
    pub preserved: u32,
}

/// The parts of a pod that a container gets, beyond the namespaces that it inherits from the monitor.
///
/// The monitor's root must have been made by [`pod_root::enter`].
#[derive(Debug, Clone, Copy, Default)]
pub struct PodContext<'a> {
    /// Pidfd of the first process of the pod's shared PID namespace, when there is one.
    pub init: Option<BorrowedFd<'a>>,
    /// The pod's user namespace, when it has one.
    pub user: Option<&'a UserNamespace>,
    /// The host's /proc, opened before the caller left the host's root. Without it a process that joins a
    /// container gets a /proc of its own for a moment, which takes an RCU grace period.
    pub proc: Option<BorrowedFd<'a>>,
    /// Some process of the pod may have CAP_SYS_PTRACE, see [`Process::may_trace`]. Without a user namespace it may
    /// inspect each process that it sees.
    pub may_be_traced: bool,
    /// Whether a helper has to copy a /proc, as the kernel does not make one of another PID namespace: not
    /// [`procfs::makes_those_of_others`]. For a shared PID namespace [`pod_init::start_with_proc`] has the original.
    pub copies_proc: bool,
}

/// A process between its clone and its exec.
#[derive(Debug)]
pub struct Starting {
    /// If set, `pid` and `pidfd` are those of a helper, which ends when it has made the process: see
    /// [`Helper::child`] and [`wait_for_process`](Self::wait_for_process). A caller that kills it looks at that
    /// once more when it has ended.
    pub helper: Option<Helper>,
    /// As the monitor's PID namespace numbers it. A child of the monitor: to be reaped by it.
    pub pid: i32,
    /// Names the process for as long as it is kept; readable at exit.
    pub pidfd: OwnedFd,
    /// Non-blocking; poll it for reading.
    pub report: Report,
}

/// Starts the first process of the container `id`.
///
/// `fds` are the descriptors that came with the plan, `stdio` is closed here when this returns.
/// Must be called from a process with one thread.
///
/// # Errors
/// A stage that failed before there was a process; later ones arrive in the [`Report`].
pub fn start(
    id: &ContainerId,
    plan: &Plan,
    fds: &[OwnedFd],
    stdio: Stdio,
    pod: &PodContext<'_>,
) -> Result<Starting, StageError> {
    start_with_gate(id, plan, fds, stdio, pod, None)
}

/// As [`start`]. `gate`: a socket of [`start_gate::listen`] at which the process waits before its exec, see
/// [`Progress::Waiting`].
///
/// # Errors
/// As [`start`].
pub(crate) fn start_with_gate(
    id: &ContainerId,
    plan: &Plan,
    fds: &[OwnedFd],
    stdio: Stdio,
    pod: &PodContext<'_>,
    gate: Option<BorrowedFd<'_>>,
) -> Result<Starting, StageError> {
    let fds = Fds(fds);
    let pid = match plan.pid {
        PidNamespace::Own => PidFrom::New,
        PidNamespace::Host => PidFrom::Own,
        PidNamespace::Target(target) => PidFrom::Of(fds.get(target)?),
        PidNamespace::Pod => PidFrom::Of(pod.init.ok_or_else(|| {
            let why = "of the pod: the pod has no shared one";
            StageError::explained(Stage::JoinPidNamespace, Errno::SRCH, why)
        })?),
    };
    let cgroup = plan.cgroup.v2.map(|index| fds.get(index)).transpose()?;
    let (size, preserved) = (stdio.size, stdio.preserved);
    let setup = Setup {
        id,
        process: &plan.process,
        cgroup: &plan.cgroup,
        size,
        preserved,
        hooks: plan.hooks.as_ref(),
        gate,
        fds,
    };
    if let Some(user) = pod.user {
        let inside = builder::Inside { user, pid, proc: pod.proc };
        return builder::start(&setup, plan, stdio, &inside, cgroup);
    }
    if let PidFrom::Of(other) = pid
        && pod.may_be_traced
    {
        return unseen::start(&setup, plan, other, pod, stdio, cgroup);
    }
    let options = CloneOptions { pid, cgroup, mount_namespace: true };
    spawn::spawn(&options, |reporter, joined| child::start(&setup, plan, stdio, reporter, joined))
}

/// Starts a further process in the container `id`, whose first process `init` names.
///
/// It must be reaped whatever becomes of it: the first process of a PID namespace does not end, not
/// even when killed, before every other process in it has been reaped by its parent, which here is
/// the caller. So wait for any child, never for one in particular.
///
/// # Errors
/// As [`start`].
pub fn exec(
    id: &ContainerId,
    process: &Process,
    cgroup: &CgroupJoin,
    fds: &[OwnedFd],
    stdio: Stdio,
    init: BorrowedFd<'_>,
    pod: &PodContext<'_>,
) -> Result<Starting, StageError> {
    let fds = Fds(fds);
    let v2 = cgroup.v2.map(|index| fds.get(index)).transpose()?;
    let (size, preserved) = (stdio.size, stdio.preserved);
    let setup = Setup { id, process, cgroup, size, preserved, hooks: None, gate: None, fds };
    if pod.may_be_traced && pod.user.is_none() {
        return unseen::exec(&setup, init, pod, stdio, v2);
    }
    let options = CloneOptions { pid: PidFrom::Of(init), cgroup: v2, mount_namespace: false };
    spawn::spawn(&options, |reporter, joined| child::join(&setup, init, pod, stdio, reporter, joined))
}

/// The descriptors that came with a plan.
#[derive(Clone, Copy)]
pub(crate) struct Fds<'a>(&'a [OwnedFd]);

impl<'a> Fds<'a> {
    fn numbered(self) -> impl Iterator<Item = (FdIndex, BorrowedFd<'a>)> {
        (0..).map(FdIndex).zip(self.0.iter().map(AsFd::as_fd))
    }

    fn get(self, index: FdIndex) -> Result<BorrowedFd<'a>, StageError> {
        self.0.get(usize::from(index.0)).map(AsFd::as_fd).ok_or_else(|| {
            let why = format!("number {} of {}: the plan names one that did not come", index.0, self.0.len());
            StageError::explained(Stage::Descriptors, Errno::BADF, why)
        })
    }
}
