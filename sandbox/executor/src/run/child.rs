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
    Fds, PodContext, Stdio, credentials, devices, filesystem, handover, keyring, limits, masked_paths,
    pod_root, procfs, start_gate, streams, terminal,
};
use crate::in_root;
use crate::plan::{MountKind, Plan, Process};
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
    enter_root(setup, plan, None, reporter)
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
    enter_root(&Setup { process: &inherited, ..*setup }, plan, Some(&prepared), reporter)
}

/// Root, mounts, the switch; then exec. `prepared` has the files that a builder has attached for them.
fn enter_root(
    setup: &Setup<'_>,
    plan: &Plan,
    prepared: Option<&Prepared>,
    reporter: &Reporter,
) -> Result<Infallible, StageError> {
    let (process, fds) = (setup.process, setup.fds);
    let command = Command::new(process)?;
    let proc = open_proc(plan, process)?;
    if let Some(proc) = &proc {
        procfs::Files::open(proc.as_fd(), process)?.apply(process, reporter)?;
    }
    let root = fds.get(plan.root.mount)?;
    attach_root(root)?;
    fill_root(plan, fds, prepared, root, proc, reporter)?;
    let mut terminal = None;
    if process.terminal {
        let slave = terminal::open(root, process.uid, setup.size, reporter)?;
        if may_attach_console(plan, root) {
            terminal::attach_console(root, slave.as_fd())?;
        }
        terminal = Some(slave);
    }
    if setup.pauses.before_root {
        reporter.wait_to_proceed()?;
    }
    pod_root::switch(root).at(Stage::SwitchRoot, "pivot_root")?;
    cwd::make(root, &process.cwd)?;
    seal_root(plan, root)?;
    let root = rustix::io::fcntl_dupfd_cloexec(root, 3);
    let entered = Entered { command, root: root.at(Stage::SwitchRoot, "name the root")?, terminal };
    let remaining = become_user(setup, &entered, reporter)?;
    launch(setup, entered, remaining, reporter)
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
    let remaining = become_user(setup, &entered, reporter)?;
    launch(setup, entered, remaining, reporter)
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
    let files = pod.proc.and_then(|proc| procfs::Files::open(proc, process).ok());
    let needed: Vec<_> = files.iter().flat_map(procfs::Files::iter).chain([init]).collect();
    match pod.user {
        None => setup.begin(stdio, &needed, credentials::FOR_JOIN, reporter, joined)?,
        Some(user) => setup.begin_to_enter(user, stdio, &needed, reporter, joined)?,
    }
    let command = Command::new(process)?;
    match files {
        Some(files) => files.apply(process, reporter)?,
        None if procfs::needed(process) => {
            procfs::Files::open(procfs::open(None)?.as_fd(), process)?.apply(process, reporter)?;
        }
        None => {}
    }
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

/// The container's /proc, or a private one if it is only needed for writing.
fn open_proc(plan: &Plan, process: &Process) -> Result<Option<OwnedFd>, StageError> {
    let mounted = plan.mounts.iter().find(|m| matches!(m.kind, MountKind::Proc));
    match mounted {
        Some(mount) => procfs::open(Some(mount.attributes)).map(Some),
        None if procfs::needed(process) => procfs::open(None).map(Some),
        None => Ok(None),
    }
}

/// Mounts, devices, links; then masked and read-only paths.
fn fill_root(
    plan: &Plan,
    fds: Fds<'_>,
    prepared: Option<&Prepared>,
    root: BorrowedFd<'_>,
    proc: Option<OwnedFd>,
    reporter: &Reporter,
) -> Result<(), StageError> {
    let kcore =
        proc.as_ref().is_some_and(|p| accessat(p, c"kcore", Access::EXISTS, AtFlags::empty()).is_ok());
    let own = vec![devices::mount_of(root).at(Stage::AttachRoot, "of the container")?];
    Mounter { plan, fds, prepared, root, proc, kcore, reporter, own, seal: Vec::new() }.attach_all()?;
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
pub(crate) fn become_user(
    setup: &Setup<'_>,
    entered: &Entered<'_>,
    reporter: &Reporter,
) -> Result<Remaining, StageError> {
    let (process, root) = (setup.process, entered.root.as_fd());
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
    Ok(remaining)
}

/// All steps after the change of user, up to the exec.
pub(crate) fn launch(
    setup: &Setup<'_>,
    entered: Entered<'_>,
    remaining: Remaining,
    reporter: &Reporter,
) -> Result<Infallible, StageError> {
    let (process, command) = (setup.process, &entered.command);
    if let Some(terminal) = &entered.terminal {
        streams::connect_terminal(terminal)?;
    }
    // Sent now, because the filter may not allow it.
    reporter.send_notes();
    let Some(gate) = setup.pauses.gate else { return become_program(process, command, remaining) };
    command.find()?;
    // The change of user has set it to what the host has for such programs (fs.suid_dumpable), and the process may wait
    // for long, as a copy of this program.
    set_dumpable_behavior(DumpableBehavior::NotDumpable).at(Stage::StartGate, "hide from other processes")?;
    start_gate::pass(gate, reporter, || become_program(process, command, remaining))
}

/// The last steps; the filter may allow none of them except the exec.
fn become_program(
    process: &Process,
    command: &Command<'_>,
    remaining: Remaining,
) -> Result<Infallible, StageError> {
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
