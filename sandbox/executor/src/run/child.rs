//! The child's half of a start, between clone and exec.

use std::convert::Infallible;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Access, AtFlags, CWD, Mode, OFlags, accessat, openat};
use rustix::io::Errno;
use rustix::mount::{MountPropagationFlags, MoveMountFlags, move_mount};
use rustix::process::{DumpableBehavior, set_dumpable_behavior, setsid, umask};
use rustix::thread::{CapabilitySet, ThreadNameSpaceType, move_into_thread_name_spaces, set_no_new_privs};

use super::command::Command;
use super::cwd::{self, Entered};
use super::error::{At, Stage, StageError};
use super::mounts::Mounter;
use super::report::Reporter;
use super::spawn::InCgroup;
use super::{
    Fds, Stdio, credentials, devices, filesystem, keyring, limits, masked_paths, pod_root, procfs, streams,
    terminal,
};
use crate::id::ContainerId;
use crate::in_root;
use crate::plan::{CgroupJoin, MountKind, Plan, Process};
use crate::sys::{self, MountAttr};

/// Given to programs whose image says nothing of it.
const UMASK: u32 = 0o022;

/// What a new process of a container has, be it the first or a further one.
pub(crate) struct Setup<'a> {
    pub id: &'a ContainerId,
    pub process: &'a Process,
    pub cgroup: &'a CgroupJoin,
    /// Of its terminal.
    pub size: Option<(u16, u16)>,
    pub fds: Fds<'a>,
}

impl Setup<'_> {
    /// The first part of both kinds of setup: gives up what it has from the monitor, and joins the
    /// container's session keyring and cgroups.
    ///
    /// Other processes of its PID namespace can see this one from its clone on, and those with
    /// CAP_SYS_PTRACE can inspect it. So it gives up first what it does not need.
    fn begin(
        &self,
        stdio: Stdio,
        needed: &[BorrowedFd<'_>],
        needs: CapabilitySet,
        reporter: &Reporter,
        joined: InCgroup,
    ) -> Result<(), StageError> {
        set_dumpable_behavior(DumpableBehavior::NotDumpable).at(Stage::Clone, "hide from other processes")?;
        let needed = needed.iter().copied().chain([reporter.as_fd()]);
        let keep = self.fds.iter().chain(streams::given(&stdio)).chain(needed);
        sys::close_others(&keep.collect::<Vec<_>>()).at(Stage::CloseDescriptors, "of the monitor")?;
        credentials::drop_bounding(self.process)?;
        credentials::give_up_all_but(self.process, needs)?;
        sys::reset_signals();
        setsid().at(Stage::Clone, "make a session")?;
        streams::connect(if self.process.terminal { Stdio::default() } else { stdio }, self.process.uid)?;
        // Nodes and folders get the modes that they are asked for; the process's own comes later.
        umask(Mode::empty());
        keyring::join(self.id)?;
        join_cgroups(self.cgroup, self.fds, joined)?;
        // After the cgroups, as a kernel before 6.2 forgets it when the cpuset changes.
        if let Err(errno) = sys::reset_cpu_affinity() {
            reporter.note(Stage::CpuAffinity, format!("to all CPUs: {errno}: that of the runtime is kept"));
        }
        Ok(())
    }
}

/// Becomes a container's first process.
pub(crate) fn start(
    setup: &Setup<'_>,
    plan: &Plan,
    stdio: Stdio,
    reporter: &Reporter,
    joined: InCgroup,
) -> Result<Infallible, StageError> {
    let (process, fds) = (setup.process, setup.fds);
    setup.begin(stdio, &[], credentials::FOR_ROOT, reporter, joined)?;
    if plan.cgroup_namespace {
        sys::unshare_cgroup_namespace().at(Stage::JoinCgroup, "make a cgroup namespace")?;
    }
    let command = Command::new(process)?;
    let proc = open_proc(plan)?;
    if let Some(proc) = &proc {
        procfs::Files::open(proc.as_fd(), process)?.apply(process, reporter)?;
    }
    let root = fds.get(plan.root.mount)?;
    attach_root(root)?;
    fill_root(plan, fds, root, proc, reporter)?;
    let mut terminal = None;
    if process.terminal {
        let slave = terminal::open(root, process.uid, setup.size, reporter)?;
        if may_attach_console(plan, root) {
            terminal::attach_console(root, slave.as_fd())?;
        }
        terminal = Some(slave);
    }
    pod_root::switch(root).at(Stage::SwitchRoot, "pivot_root")?;
    cwd::make(root, &process.cwd)?;
    seal_root(plan, root)?;
    launch(process, &command, root, terminal, reporter)
}

/// Where /dev is a volume, which is the host's as a rule, no console is made in it, and none attached that
/// could propagate to the host.
fn may_attach_console(plan: &Plan, root: BorrowedFd<'_>) -> bool {
    !devices::dev_is_a_volume(plan) || !plan.root.shared && in_root::find(root, c"/dev/console").is_ok()
}

fn attach_root(root: BorrowedFd<'_>) -> Result<(), StageError> {
    let attached = move_mount(root, c"", CWD, pod_root::ROOT_TARGET, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH);
    attached.map_err(|errno| match errno {
        Errno::INVAL => {
            let why = "of the container: is not an unattached mount (each serves one start)";
            StageError::explained(Stage::AttachRoot, errno, why)
        }
        errno => StageError::new(Stage::AttachRoot, errno, "of the container"),
    })
}

/// Becomes one more process of the container whose first one is `init`. `proc`: the host's /proc.
pub(crate) fn join(
    setup: &Setup<'_>,
    init: BorrowedFd<'_>,
    proc: Option<BorrowedFd<'_>>,
    stdio: Stdio,
    reporter: &Reporter,
    joined: InCgroup,
) -> Result<Infallible, StageError> {
    let process = setup.process;
    let files = proc.and_then(|proc| procfs::Files::open(proc, process).ok());
    let needed: Vec<_> = files.iter().flat_map(procfs::Files::iter).chain([init]).collect();
    setup.begin(stdio, &needed, credentials::FOR_JOIN, reporter, joined)?;
    let command = Command::new(process)?;
    match files {
        Some(files) => files.apply(process, reporter)?,
        None if procfs::needed(process) => {
            procfs::Files::open(procfs::open(None)?.as_fd(), process)?.apply(process, reporter)?;
        }
        None => {}
    }
    let namespaces = ThreadNameSpaceType::MOUNT | ThreadNameSpaceType::CONTROL_GROUP;
    move_into_thread_name_spaces(init, namespaces)
        .at(Stage::JoinNamespaces, "of the container, is it still running")?;
    let root = openat(CWD, c"/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    let root = root.at(Stage::JoinNamespaces, "container's root")?;
    let mut terminal = None;
    if process.terminal {
        terminal = Some(terminal::open(root.as_fd(), process.uid, setup.size, reporter)?);
    }
    launch(process, &command, root.as_fd(), terminal, reporter)
}

/// Moves into the cgroups that the clone could not be born in. `0` is the writer; by `tasks` the
/// kernel moves one thread without the lock that moving a whole process takes.
fn join_cgroups(join: &CgroupJoin, fds: Fds<'_>, joined: InCgroup) -> Result<(), StageError> {
    for &tasks in &join.v1_tasks {
        rustix::io::write(fds.get(tasks)?, b"0").map_err(cgroup_refused)?;
    }
    let Some(v2) = join.v2.filter(|_| joined == InCgroup::No) else { return Ok(()) };
    let procs = openat(fds.get(v2)?, c"cgroup.procs", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty());
    let procs = procs.at(Stage::JoinCgroup, "cgroup.procs")?;
    rustix::io::write(procs, b"0").map(drop).map_err(cgroup_refused)
}

fn cgroup_refused(errno: Errno) -> StageError {
    let why = match errno {
        Errno::NOSPC => "of the container: its cpuset names no CPUs or no memory nodes",
        Errno::NODEV => "of the container: it has been removed",
        Errno::BUSY => "of the container: it has cgroups below it that controllers are enabled for",
        errno => return StageError::new(Stage::JoinCgroup, errno, "of the container"),
    };
    StageError::explained(Stage::JoinCgroup, errno, why)
}

/// The container's /proc, or a private one when only something has to be written through it.
fn open_proc(plan: &Plan) -> Result<Option<OwnedFd>, StageError> {
    let mounted = plan.mounts.iter().find(|m| matches!(m.kind, MountKind::Proc));
    match mounted {
        Some(mount) => procfs::open(Some(mount.attributes)).map(Some),
        None if procfs::needed(&plan.process) => procfs::open(None).map(Some),
        None => Ok(None),
    }
}

/// Mounts, devices, links; then what is hidden or read-only.
fn fill_root(
    plan: &Plan,
    fds: Fds<'_>,
    root: BorrowedFd<'_>,
    proc: Option<OwnedFd>,
    reporter: &Reporter,
) -> Result<(), StageError> {
    let kcore =
        proc.as_ref().is_some_and(|p| accessat(p, c"kcore", Access::EXISTS, AtFlags::empty()).is_ok());
    let own = vec![devices::mount_of(root).at(Stage::AttachRoot, "of the container")?];
    Mounter { plan, fds, root, proc, kcore, reporter, own, seal: Vec::new() }.attach_all()?;
    masked_paths::make_read_only(root, &plan.readonly_paths)?;
    masked_paths::mask(root, &plan.masked_paths)
}

/// The root's own propagation and flags, once nothing has to be made in it any more. Shared only
/// now: a shared mount can't be pivoted to.
fn seal_root(plan: &Plan, root: BorrowedFd<'_>) -> Result<(), StageError> {
    if plan.root.shared {
        let propagation = u64::from(MountPropagationFlags::SHARED.bits());
        let attr = MountAttr { propagation, ..MountAttr::default() };
        sys::mount_setattr(root, false, &attr).at(Stage::SwitchRoot, "share the root's mounts")?;
    }
    if plan.root.readonly {
        filesystem::set_read_only(root, false).at(Stage::SwitchRoot, "make the root read-only")?;
    }
    Ok(())
}

/// Everything that changes the process itself, ending in its exec.
fn launch(
    process: &Process,
    command: &Command<'_>,
    root: BorrowedFd<'_>,
    terminal: Option<OwnedFd>,
    reporter: &Reporter,
) -> Result<Infallible, StageError> {
    credentials::give_up_all_but(process, credentials::for_launch(process))?;
    let entered = cwd::enter(root, &process.cwd)?;
    if let Some(terminal) = &terminal {
        streams::connect_terminal(terminal)?;
    }
    limits::apply(&process.rlimits, reporter)?;
    let remaining = credentials::adopt(process, reporter)?;
    if entered == Entered::AsUser {
        cwd::enter_as_user(root, &process.cwd, process.uid)?;
    }
    umask(Mode::from_raw_mode(process.umask.unwrap_or(UMASK)));
    sys::close_on_exec_from(3).at(Stage::CloseDescriptors, "mark them")?;
    if process.no_new_privileges {
        set_no_new_privs(true).at(Stage::Capabilities, "no_new_privs")?;
    }
    // The filter may not let it pass.
    reporter.send_notes();
    if let Some(seccomp) = &process.seccomp {
        sys::load_seccomp(&seccomp.program, seccomp.flags).map_err(seccomp_refused)?;
    }
    remaining.finish()?;
    Err(command.run())
}

fn seccomp_refused(errno: Errno) -> StageError {
    let why = match errno {
        Errno::INVAL => "program or flags are not valid on this kernel",
        Errno::ACCESS => "loading it takes no_new_privs or CAP_SYS_ADMIN",
        errno => return StageError::new(Stage::Seccomp, errno, "program"),
    };
    StageError::explained(Stage::Seccomp, errno, why)
}
