//! The child's part of a start, between clone and exec.

use std::convert::Infallible;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Access, AtFlags, CWD, Mode, OFlags, accessat, openat};
use rustix::io::Errno;
use rustix::mount::{MountPropagationFlags, MoveMountFlags, move_mount};
use rustix::process::{DumpableBehavior, set_dumpable_behavior, umask};
use rustix::thread::{ThreadNameSpaceType, move_into_thread_name_spaces, set_no_new_privs};

use super::command::Command;
use super::credentials::Remaining;
use super::cwd;
use super::error::{At, Stage, StageError};
use super::mounts::Mounter;
use super::prepared::Prepared;
use super::report::Reporter;
use super::setup::Setup;
use super::spawn::InCgroup;
use super::{
    Fds, PodContext, Stdio, credentials, devices, filesystem, handover, hooks, keyring, limits, masked_paths,
    pod_root, procfs, start_gate, streams, terminal,
};
use crate::in_root;
use crate::plan::{Plan, Process};
use crate::sys::{self, MountAttr};

/// The umask of programs whose image does not set one.
const UMASK: u32 = 0o022;

/// Becomes a container's first process.
pub(crate) fn start(
    setup: &Setup<'_>,
    plan: &Plan,
    stdio: Stdio,
    reporter: &Reporter,
    joined: InCgroup,
) -> Result<Infallible, StageError> {
    setup.begin(stdio, &[], credentials::FOR_ROOT, reporter, joined)?;
    if plan.cgroup_namespace {
        sys::unshare_cgroup_namespace().at(Stage::JoinCgroup, "make a cgroup namespace")?;
    }
    let procs = own_procs(setup.process, plan, reporter)?;
    let entered = enter_root(setup, plan, None, procs, reporter)?;
    launch(setup, become_user(setup, entered, reporter)?, reporter)
}

/// As [`start`], up to the change of user, in a helper whose child is to become the container's first process. That is
/// born in the PID namespace of `other`, to which this process has moved its children.
pub(crate) fn enter_beside<'a>(
    setup: &Setup<'a>,
    plan: &Plan,
    other: BorrowedFd<'_>,
    pod: &PodContext<'_>,
    stdio: Stdio,
    reporter: &Reporter,
    joined: InCgroup,
) -> Result<Entered<'a>, StageError> {
    let process = setup.process;
    let files = hosts_files(process, pod);
    let procs = procfs::of_others(plan, other, pod)?;
    let needed: Vec<_> =
        files.iter().flat_map(procfs::Files::iter).chain(procs.iter().map(AsFd::as_fd)).collect();
    setup.begin(stdio, &needed, credentials::FOR_ROOT, reporter, joined)?;
    if plan.cgroup_namespace {
        sys::unshare_cgroup_namespace().at(Stage::JoinCgroup, "make a cgroup namespace")?;
    }
    apply(files, process, reporter)?;
    enter_root(setup, plan, None, procs, reporter)
}

/// The same in a user namespace, after a builder has done the steps that need the host's rights.
pub(crate) fn start_inside(
    setup: &Setup<'_>,
    plan: &Plan,
    stdio: Stdio,
    reporter: &Reporter,
) -> Result<Infallible, StageError> {
    setup.close_others(&stdio, &[], reporter, None)?;
    setup.give_up(credentials::FOR_ROOT)?;
    // The pipes have already been given to the user.
    setup.lead_session(stdio, 0)?;
    keyring::join(setup.id)?;
    let prepared = Prepared::find()?;
    let inherited = Process { oom_score_adj: None, ..setup.process.clone() };
    let setup = &Setup { process: &inherited, ..*setup };
    let procs = own_procs(setup.process, plan, reporter)?;
    let entered = enter_root(setup, plan, Some(&prepared), procs, reporter)?;
    launch(setup, become_user(setup, entered, reporter)?, reporter)
}

/// Root, mounts, the switch. `prepared` has the files that a builder has attached for them, `procs` a /proc for each
/// such mount.
fn enter_root<'a>(
    setup: &Setup<'a>,
    plan: &Plan,
    prepared: Option<&Prepared>,
    procs: Vec<OwnedFd>,
    reporter: &Reporter,
) -> Result<Entered<'a>, StageError> {
    let (process, fds) = (setup.process, setup.fds);
    let command = Command::new(process)?;
    let root = fds.get(plan.root.mount)?;
    let pause = plan.hooks.as_ref().and_then(|hooks| hooks.pause.as_ref());
    match pause {
        None => attach_root(root)?,
        Some(pause) => hooks::attach(pause, root, fds)?,
    }
    fill_root(plan, fds, prepared, root, procs, reporter)?;
    let mut terminal = None;
    if process.terminal {
        let slave = terminal::open(root, process.uid, setup.size, reporter)?;
        if may_attach_console(plan, root) {
            terminal::attach_console(root, slave.as_fd())?;
        }
        terminal = Some(slave);
    }
    if let Some(pause) = pause {
        hooks::wait(pause, fds, reporter)?;
    }
    pod_root::switch(root).at(Stage::SwitchRoot, "pivot_root")?;
    cwd::make(root, &process.cwd)?;
    seal_root(plan, root)?;
    let root = rustix::io::fcntl_dupfd_cloexec(root, 3);
    Ok(Entered { command, root: root.at(Stage::SwitchRoot, "name the root")?, terminal })
}

/// If /dev is a volume, which usually is the host's, no console is made in it, and none attached that could
/// propagate to the host.
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

/// A process in the container's namespaces, before it becomes the user.
pub(crate) struct Entered<'a> {
    command: Command<'a>,
    root: OwnedFd,
    terminal: Option<OwnedFd>,
}

/// A process that has become the user, before its exec.
pub(crate) struct Ready<'a> {
    command: Command<'a>,
    terminal: Option<OwnedFd>,
    remaining: Remaining,
}

impl Ready<'_> {
    /// The descriptor that its [`launch`] needs.
    pub(crate) fn terminal(&self) -> Option<BorrowedFd<'_>> {
        self.terminal.as_ref().map(AsFd::as_fd)
    }
}

/// Becomes an additional process of the container whose first process is `init`.
pub(crate) fn join(
    setup: &Setup<'_>,
    init: BorrowedFd<'_>,
    pod: &PodContext<'_>,
    stdio: Stdio,
    reporter: &Reporter,
    joined: InCgroup,
) -> Result<Infallible, StageError> {
    let entered = enter_container(setup, init, pod, stdio, reporter, joined)?;
    launch(setup, become_user(setup, entered, reporter)?, reporter)
}

/// Joins the cgroups and namespaces of the container, except for its PID namespace.
pub(crate) fn enter_container<'a>(
    setup: &Setup<'a>,
    init: BorrowedFd<'_>,
    pod: &PodContext<'_>,
    stdio: Stdio,
    reporter: &Reporter,
    joined: InCgroup,
) -> Result<Entered<'a>, StageError> {
    let process = setup.process;
    let files = hosts_files(process, pod);
    let needed: Vec<_> = files.iter().flat_map(procfs::Files::iter).chain([init]).collect();
    match pod.user {
        None => setup.begin(stdio, &needed, credentials::FOR_JOIN, reporter, joined)?,
        Some(user) => setup.begin_to_enter(user, stdio, &needed, reporter, joined)?,
    }
    let command = Command::new(process)?;
    apply(files, process, reporter)?;
    enter_namespaces(setup, init, pod.user.is_some())?;
    let root = openat(CWD, c"/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    let root = root.at(Stage::JoinNamespaces, "container's root")?;
    let mut terminal = None;
    if process.terminal {
        terminal = Some(terminal::open(root.as_fd(), process.uid, setup.size, reporter)?);
    }
    Ok(Entered { command, root, terminal })
}

fn enter_namespaces(setup: &Setup<'_>, init: BorrowedFd<'_>, user: bool) -> Result<(), StageError> {
    let mut namespaces = ThreadNameSpaceType::MOUNT | ThreadNameSpaceType::CONTROL_GROUP;
    namespaces.set(ThreadNameSpaceType::USER, user);
    move_into_thread_name_spaces(init, namespaces)
        .at(Stage::JoinNamespaces, "of the container, is it still running")?;
    if user {
        handover::become_root()?;
        setup.give_up(credentials::FOR_JOIN)?;
        keyring::join(setup.id)?;
    }
    Ok(())
}

/// The files of this process in the host's /proc, to be opened before it leaves that.
fn hosts_files(process: &Process, pod: &PodContext<'_>) -> Option<procfs::Files> {
    pod.proc.and_then(|proc| procfs::Files::open(proc, process).ok())
}

/// Sets through `files`, or through a private /proc, what can only be set there.
fn apply(files: Option<procfs::Files>, process: &Process, reporter: &Reporter) -> Result<(), StageError> {
    match files {
        Some(files) => files.apply(process, reporter),
        None if procfs::needed(process) => {
            procfs::Files::open(procfs::open(None)?.as_fd(), process)?.apply(process, reporter)
        }
        None => Ok(()),
    }
}

/// The container's new /proc mounts, of the PID namespace of this process, for which the first one has served.
fn own_procs(process: &Process, plan: &Plan, reporter: &Reporter) -> Result<Vec<OwnedFd>, StageError> {
    let procs: Vec<_> = procfs::attributes_of(plan)
        .map(|attributes| procfs::open(Some(attributes)))
        .collect::<Result<_, _>>()?;
    let files = procs.first().map(|proc| procfs::Files::open(proc.as_fd(), process)).transpose()?;
    apply(files, process, reporter)?;
    Ok(procs)
}

/// Mounts, devices, links; then masked and read-only paths.
fn fill_root(
    plan: &Plan,
    fds: Fds<'_>,
    prepared: Option<&Prepared>,
    root: BorrowedFd<'_>,
    procs: Vec<OwnedFd>,
    reporter: &Reporter,
) -> Result<(), StageError> {
    let kcore =
        procs.first().is_some_and(|p| accessat(p, c"kcore", Access::EXISTS, AtFlags::empty()).is_ok());
    let own = vec![devices::mount_of(root).at(Stage::AttachRoot, "of the container")?];
    let procs = procs.into();
    Mounter { plan, fds, prepared, root, procs, kcore, reporter, own, seal: Vec::new() }.attach_all()?;
    masked_paths::make_read_only(root, &plan.readonly_paths)?;
    masked_paths::mask(root, &plan.masked_paths)
}

/// The root's own propagation and flags, after everything was made in it. Shared only now: pivot_root refuses
/// a shared mount.
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

/// Gets the user, rights, limits and working directory of the program.
pub(crate) fn become_user<'a>(
    setup: &Setup<'_>,
    entered: Entered<'a>,
    reporter: &Reporter,
) -> Result<Ready<'a>, StageError> {
    let Entered { command, root, terminal } = entered;
    let (process, root) = (setup.process, root.as_fd());
    credentials::give_up_all_but(process, credentials::for_launch(process))?;
    let folder = cwd::enter(root, &process.cwd)?;
    limits::apply(&process.rlimits, reporter)?;
    let remaining = credentials::adopt(process, reporter)?;
    if folder == cwd::Entered::AsUser {
        cwd::enter_as_user(root, &process.cwd, process.uid)?;
    }
    umask(Mode::from_raw_mode(process.umask.unwrap_or(UMASK)));
    sys::close_on_exec_from(3 + setup.preserved).at(Stage::CloseDescriptors, "mark them")?;
    if process.no_new_privileges {
        set_no_new_privs(true).at(Stage::Capabilities, "no_new_privs")?;
    }
    Ok(Ready { command, terminal, remaining })
}

/// All steps after the change of user, up to the exec.
pub(crate) fn launch(
    setup: &Setup<'_>,
    ready: Ready<'_>,
    reporter: &Reporter,
) -> Result<Infallible, StageError> {
    let Ready { command, terminal, remaining } = ready;
    let (process, command) = (setup.process, &command);
    if let Some(terminal) = terminal {
        streams::connect_terminal(&terminal)?;
    }
    // Sent now, because the filter may not allow it.
    reporter.send_notes();
    let start_hooks = setup.hooks.filter(|hooks| !hooks.start_container.is_empty());
    if setup.gate.is_none() && start_hooks.is_none() {
        return become_program(process, command, &remaining);
    }
    command.find()?;
    // The change of user has set it to what the host has for such programs (fs.suid_dumpable), and the process may wait
    // for long, as a copy of this program.
    set_dumpable_behavior(DumpableBehavior::NotDumpable).at(Stage::StartGate, "hide from other processes")?;
    let run = || match start_hooks {
        None => become_program(process, command, &remaining),
        Some(hooks) => {
            hooks::run_start_container(hooks, || confine(process, &remaining))?;
            Err(command.run())
        }
    };
    if start_hooks.is_some() {
        let needed: Vec<_> = setup.gate.into_iter().chain([reporter.as_fd()]).collect();
        sys::close_others(3 + setup.preserved, &needed).at(Stage::CloseDescriptors, "before hooks")?;
    }
    match setup.gate {
        Some(gate) => start_gate::pass(gate, reporter, run),
        None => run(),
    }
}

/// The last steps; the filter may allow none of them except the exec.
fn become_program(
    process: &Process,
    command: &Command<'_>,
    remaining: &Remaining,
) -> Result<Infallible, StageError> {
    confine(process, remaining)?;
    Err(command.run())
}

fn confine(process: &Process, remaining: &Remaining) -> Result<(), StageError> {
    if let Some(seccomp) = &process.seccomp {
        sys::load_seccomp(&seccomp.program, seccomp.flags).map_err(seccomp_refused)?;
    }
    remaining.finish()
}

fn seccomp_refused(errno: Errno) -> StageError {
    let why = match errno {
        Errno::INVAL => "program or flags are not valid on this kernel",
        Errno::ACCESS => "loading it takes no_new_privs or CAP_SYS_ADMIN",
        errno => return StageError::new(Stage::Seccomp, errno, "program"),
    };
    StageError::explained(Stage::Seccomp, errno, why)
}
