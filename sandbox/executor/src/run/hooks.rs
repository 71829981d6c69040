//! The part of a container's process in its hooks: the pause in which others run some, and those that it runs itself.

use std::convert::Infallible;
use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, MemfdFlags, SeekFrom, memfd_create, seek};
use rustix::io::{Errno, ioctl_fionbio, read, retry_on_intr, write};
use rustix::mount::{MoveMountFlags, move_mount};
use rustix::net::{RecvFlags, SendFlags, recv, send};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, getpid, kill_process_group, setsid, waitid};

use super::error::{At, Quoted, Stage, StageError};
use super::report::Reporter;
use super::spawn::Stop;
use super::{Fds, filesystem, pod_root};
use crate::in_root;
use crate::plan::{HookPause, Hooks, StartHook};
use crate::sys::{self, Cloned, Strings};

/// Bytes of a hook's output that an error shows: the last ones.
const OUTPUT: usize = 1 << 10;

/// Attaches the file systems of the host, and the container's root in them.
pub(crate) fn attach(pause: &HookPause, root: BorrowedFd<'_>, fds: Fds<'_>) -> Result<(), StageError> {
    let at = Stage::AttachRoot;
    let host = fds.get(pause.host)?;
    move_mount(host, c"", CWD, pod_root::ROOT_TARGET, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .at(at, "of the host, for hooks")?;
    let target = in_root::find(host, &*pause.root).at(at, Quoted(&pause.root))?;
    filesystem::attach(root, target.as_fd()).at(at, Quoted(&pause.root))
}

/// Makes the file systems of the host the root, and waits for the hooks.
pub(crate) fn wait(pause: &HookPause, fds: Fds<'_>, reporter: &Reporter) -> Result<(), StageError> {
    pod_root::switch(fds.get(pause.host)?).at(Stage::SwitchRoot, "pivot_root for hooks")?;
    match pause.socket {
        None => reporter.wait_to_proceed()?,
        Some(socket) => wait_at(fds.get(socket)?)?,
    }
    // They lead to the root of the host and to the server: a hook in the container must not find them.
    let used = [Some(pause.host), pause.socket].into_iter().flatten();
    let used = used.map(|index| fds.get(index)).collect::<Result<Vec<_>, _>>()?;
    sys::close_these(&used).at(Stage::CloseDescriptors, "of the pause for hooks")
}

fn wait_at(socket: BorrowedFd<'_>) -> Result<(), StageError> {
    let gone = "wait for hooks: they failed, or the server has ended";
    let gone = |_| StageError::explained(Stage::Hook, Errno::PIPE, gone);
    retry_on_intr(|| send(socket, &[0], SendFlags::NOSIGNAL)).map_err(gone)?;
    match retry_on_intr(|| recv(socket, &mut [0; 1][..], RecvFlags::empty())) {
        Ok((1.., _)) => Ok(()),
        Ok(_) => Err(gone(Errno::PIPE)),
        Err(errno) => Err(gone(errno)),
    }
}

/// Runs the startContainer hooks: programs of the image, which may inspect this process if it has CAP_SYS_PTRACE. So
/// they start only when it has become what the container's program is: `confine` loads its filter and drops its last
/// rights. The filter may forbid to make processes: those of all hooks are made before it, and wait for their turn.
///
/// The caller has become the user, and has closed what is not the container's.
pub(crate) fn run_start_container(
    hooks: &Hooks,
    confine: impl Fn() -> Result<(), StageError>,
) -> Result<(), StageError> {
    let made = hooks.start_container.iter().map(|hook| make(hook, &hooks.state, &confine));
    let made = made.collect::<Result<Vec<_>, _>>()?;
    confine()?;
    made.into_iter().try_for_each(Made::run)
}

/// A process that waits to become a hook.
struct Made<'a> {
    hook: &'a StartHook,
    pid: i32,
    pidfd: OwnedFd,
    output: OwnedFd,
    turn: Turn,
}

/// A pipe by which the hook's process hears that it is its turn. It ends when the other end closes.
struct Turn {
    /// Kept, so that writing to a process that was killed is no SIGPIPE.
    reader: OwnedFd,
    writer: OwnedFd,
}

fn make<'a>(
    hook: &'a StartHook,
    state: &[u8],
    confine: impl Fn() -> Result<(), StageError>,
) -> Result<Made<'a>, StageError> {
    let at = Stage::Hook;
    let subject = || Quoted(&hook.path);
    let pipe = || pipe_with(PipeFlags::CLOEXEC).at(at, subject());
    let stdin = input(state).at(at, subject())?;
    let ((output, writer), (turn, ready)) = (pipe()?, (pipe()?, pipe()?));
    ioctl_fionbio(&output, true).at(at, subject())?;
    match sys::clone3(0, None).at(at, subject())? {
        Cloned::Child => {
            let _stop = Stop;
            let waits = || wait_for_turn(&turn.0, &ready.1);
            let kept = [turn.0.as_fd(), ready.1.as_fd()];
            let Err(error) = become_hook(hook, [&stdin, &writer], &kept, confine, waits);
            let _ = write(rustix::stdio::stderr(), error.to_string().as_bytes());
            sys::exit(127)
        }
        Cloned::Parent { pid, pidfd } => {
            drop((stdin, writer, ready.1));
            let turn = Turn { reader: turn.0, writer: turn.1 };
            let made = Made { hook, pid, pidfd, output, turn };
            match retry_on_intr(|| read(&ready.0, &mut [0; 1])).at(at, subject())? {
                // It has failed to confine itself, and says why.
                0 => Err(made.run().err().unwrap_or_else(|| failure(&hook.path, "it was not confined", &[]))),
                _ => Ok(made),
            }
        }
    }
}

/// In a hook's process, which is confined.
fn wait_for_turn(turn: &OwnedFd, ready: &OwnedFd) -> Result<(), StageError> {
    let at = Stage::Hook;
    write(ready, &[0]).at(at, "wait for its turn")?;
    match retry_on_intr(|| read(turn, &mut [0; 1])).at(at, "wait for its turn")? {
        0 => sys::exit(127),
        _ => Ok(()),
    }
}

fn input(state: &[u8]) -> Result<OwnedFd, Errno> {
    let file = memfd_create(c"state", MemfdFlags::CLOEXEC)?;
    let pid = format!(",\"pid\":{}}}", getpid().as_raw_nonzero());
    for mut left in [state, pid.as_bytes()] {
        while !left.is_empty() {
            left = &left[retry_on_intr(|| write(&file, left))?..];
        }
    }
    seek(&file, SeekFrom::Start(0))?;
    Ok(file)
}

fn become_hook(
    hook: &StartHook,
    [stdin, output]: [&OwnedFd; 2],
    kept: &[BorrowedFd<'_>],
    confine: impl Fn() -> Result<(), StageError>,
    wait_for_turn: impl Fn() -> Result<(), StageError>,
) -> Result<Infallible, StageError> {
    let at = Stage::Hook;
    setsid().at(at, "make a session")?;
    rustix::stdio::dup2_stdin(stdin).at(at, "connect its streams")?;
    rustix::stdio::dup2_stdout(output).at(at, "connect its streams")?;
    rustix::stdio::dup2_stderr(output).at(at, "connect its streams")?;
    sys::close_others(3, kept).at(at, "close descriptors")?;
    confine()?;
    wait_for_turn()?;
    let errno = sys::execve(&hook.path, &Strings::new(&hook.args), &Strings::new(&hook.env));
    Err(StageError::new(Stage::Exec, errno, Quoted(&hook.path)))
}

impl Made<'_> {
    /// Lets it become the hook, and waits for its end.
    fn run(self) -> Result<(), StageError> {
        let Self { hook, pid, pidfd, output, turn } = self;
        write(&turn.writer, &[0]).at(Stage::Hook, Quoted(&hook.path))?;
        let ended = wait_for(hook, pid, &pidfd, &output);
        drop(turn.reader);
        ended
    }
}

fn wait_for(hook: &StartHook, pid: i32, pidfd: &OwnedFd, output: &OwnedFd) -> Result<(), StageError> {
    let limit = Duration::from_millis(hook.timeout_ms.into());
    let mut last = Vec::new();
    let ended = end_within(limit, pidfd, output, &mut last);
    if !matches!(ended, Ok(true))
        && let Some(pid) = Pid::from_raw(pid)
    {
        // Not reaped yet: the number is its own.
        let _ = kill_process_group(pid, Signal::KILL);
    }
    let status = retry_on_intr(|| waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED));
    drain(output, &mut last);
    let status = status.at(Stage::Hook, Quoted(&hook.path))?;
    let how = match (ended.at(Stage::Hook, Quoted(&hook.path))?, status.and_then(|s| s.exit_status())) {
        (true, Some(0)) => return Ok(()),
        (true, Some(code)) => format!("exit code {code}"),
        (true, None) => {
            format!("killed by signal {}", status.and_then(|s| s.terminating_signal()).unwrap_or(0))
        }
        (false, _) => format!("no end within {limit:?}: it was killed"),
    };
    Err(failure(&hook.path, &how, &last))
}

fn failure(path: &CStr, how: &str, output: &[u8]) -> StageError {
    let output = String::from_utf8_lossy(output);
    let output = output.trim().replace('\n', "; ").replace(char::is_control, " ");
    let output = if output.is_empty() { output } else { format!(": {output}") };
    let why = format!("hooks.startContainer: {}: {how}{output}", path.to_string_lossy());
    StageError::explained(Stage::Hook, Errno::CANCELED, why)
}

/// Whether the hook has ended before its time limit.
fn end_within(limit: Duration, pidfd: &OwnedFd, output: &OwnedFd, last: &mut Vec<u8>) -> Result<bool, Errno> {
    let deadline = Instant::now() + limit;
    let mut is_open = true;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).map_err(|_| Errno::INVAL)?;
        let mut both = [PollFd::new(pidfd, PollFlags::IN), PollFd::new(output, PollFlags::IN)];
        let count = if is_open { 2 } else { 1 };
        match poll(&mut both[..count], Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
        if is_open && !both[1].revents().is_empty() {
            is_open = drain(output, last);
        }
        if both[0].revents().contains(PollFlags::IN) {
            return Ok(true);
        }
        if left.is_zero() {
            return Ok(false);
        }
    }
}

/// Reads once, and keeps the last bytes. Returns whether more can come.
fn drain(output: &OwnedFd, last: &mut Vec<u8>) -> bool {
    let mut buffer = [0; 4 << 10];
    match read(output, &mut buffer) {
        Ok(0) => false,
        Ok(count) => {
            last.extend_from_slice(&buffer[..count]);
            last.drain(..last.len().saturating_sub(OUTPUT));
            true
        }
        Err(errno) => matches!(errno, Errno::AGAIN | Errno::INTR),
    }
}
