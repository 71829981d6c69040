//! Runs the hooks that are programs of the host.

use std::ffi::{CString, NulError};
use std::fs::File;
use std::io::{self, Seek as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use oci_spec::runtime::{Hook, Hooks};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, Mode, OFlags, memfd_create, open};
use rustix::io::{Errno, retry_on_intr};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, WaitIdStatus, kill_process_group, waitid};

use super::kind::{Kind, timeout};
use super::output::Output;
use crate::cgroup::JoinFds;
use crate::sys::program::{Program, ProgramError, ProgramFile, SpawnOptions, Spawned};

/// Hooks of one container at one moment. A hook has no environment but its own, and of descriptors only standard
/// input, with the state, a null device, and standard error, of which an error shows the end.
#[derive(Debug, Clone, Copy)]
pub struct Runner<'a> {
    /// The state of the container, see [`State`](super::State).
    pub state: &'a str,
    /// The cgroups in which hooks run. None: those of this process.
    pub cgroup: Option<&'a JoinFds>,
    /// When it hangs up, the hook is killed.
    pub cancel: Option<BorrowedFd<'a>>,
}

/// The container of a createContainer hook.
#[derive(Debug, Clone, Copy)]
pub struct Container<'a> {
    /// Its process in the pause, by its pidfd.
    pub process: BorrowedFd<'a>,
    /// Whether it has a user namespace.
    pub user: bool,
}

/// A hook that failed.
#[derive(Debug, thiserror::Error)]
#[error("hooks.{kind}: {}: {failure}", path.display())]
pub struct HookError {
    pub kind: Kind,
    pub path: PathBuf,
    failure: Failure,
}

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    NotStarted(#[from] ProgramError),
    #[error("{}", io::Error::from(*.0))]
    Kernel(#[from] Errno),
    #[error(transparent)]
    Input(#[from] io::Error),
    #[error(transparent)]
    Text(#[from] NulError),
    #[error("no end within {limit:?}: it was killed{}", shown(output))]
    Deadline { limit: Duration, output: String },
    #[error("{how}{}", shown(output))]
    Ended { how: String, output: String },
    #[error("it was killed, as the start was cancelled")]
    Cancelled,
}

fn shown(output: &str) -> String {
    if output.is_empty() { String::new() } else { format!(": {output}") }
}

/// Namespaces of a container that its hooks join. Not the PID namespace, see [`super`].
const NAMESPACES: i32 =
    libc::CLONE_NEWNS | libc::CLONE_NEWNET | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS | libc::CLONE_NEWCGROUP;

impl Runner<'_> {
    /// Runs the hooks of a pause.
    ///
    /// # Errors
    /// The failure of the first hook that fails; the others are not run.
    pub fn run_in_pause(&self, hooks: &Hooks, container: Container<'_>) -> Result<(), HookError> {
        for kind in Kind::IN_PAUSE {
            let inside = (kind == Kind::CreateContainer).then_some(container);
            kind.of(hooks).iter().try_for_each(|hook| self.run(kind, hook, inside))?;
        }
        Ok(())
    }

    /// Runs the hooks of a moment on the host; a failure does not stop the others. Returns the failures.
    #[must_use]
    pub fn run_all(&self, kind: Kind, hooks: &Hooks) -> Vec<HookError> {
        kind.of(hooks).iter().filter_map(|hook| self.run(kind, hook, None).err()).collect()
    }

    fn run(&self, kind: Kind, hook: &Hook, inside: Option<Container<'_>>) -> Result<(), HookError> {
        self.start_and_wait(hook, inside).map_err(|failure| HookError {
            kind,
            path: hook.path().clone(),
            failure,
        })
    }

    fn start_and_wait(&self, hook: &Hook, inside: Option<Container<'_>>) -> Result<(), Failure> {
        let (stdin, null) = (input(self.state)?, null()?);
        let (reader, stderr) = pipe_with(PipeFlags::CLOEXEC)?;
        let path = CString::new(hook.path().as_os_str().as_bytes())?;
        let args = match hook.args().as_deref() {
            None | Some([]) => vec![path.clone()],
            Some(args) => strings(args)?,
        };
        let env = strings(hook.env().as_deref().unwrap_or_default())?;
        let user = |container: Container<'_>| if container.user { libc::CLONE_NEWUSER } else { 0 };
        let options = SpawnOptions {
            namespaces: inside.map(|container| (container.process, NAMESPACES | user(container))),
            v1_tasks: self.cgroup.map_or(&[], |cgroup| &cgroup.v1_tasks),
            ends_with_caller: true,
            for_others: true,
        };
        let program = Program {
            file: ProgramFile::Path(&path),
            args: &args,
            env: &env,
            stdio: [stdin.as_fd(), null.as_fd(), stderr.as_fd()],
            cgroup: self.cgroup.and_then(|cgroup| cgroup.v2.as_ref()).map(AsFd::as_fd),
            options,
        };
        let spawned = program.spawn()?;
        drop(stderr);
        Waiting { spawned, output: Output::new(reader)?, cancel: self.cancel }.wait(timeout(hook))
    }
}

fn strings(list: &[String]) -> Result<Vec<CString>, NulError> {
    list.iter().map(|text| CString::new(text.as_str())).collect()
}

/// A file and not a pipe: writing a state that is longer than a pipe's buffer would block on a hook that does not
/// read it.
fn input(state: &str) -> Result<File, io::Error> {
    let flags = MemfdFlags::CLOEXEC;
    let file = match memfd_create("state", flags | MemfdFlags::NOEXEC_SEAL) {
        // Before Linux 6.3.
        Err(Errno::INVAL) => memfd_create("state", flags),
        file => file,
    };
    let mut file = File::from(file?);
    file.write_all(state.as_bytes())?;
    file.rewind()?;
    Ok(file)
}

fn null() -> Result<OwnedFd, Errno> {
    open(Path::new("/dev/null"), OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
}

/// A hook that runs.
struct Waiting<'a> {
    spawned: Spawned,
    output: Output,
    cancel: Option<BorrowedFd<'a>>,
}

impl Waiting<'_> {
    fn wait(mut self, limit: Duration) -> Result<(), Failure> {
        let ended = self.end_within(limit);
        if !matches!(ended, Ok(End::Ended)) {
            self.kill();
        }
        let status =
            retry_on_intr(|| waitid(WaitId::PidFd(self.spawned.pidfd.as_fd()), WaitIdOptions::EXITED));
        self.output.read();
        let output = self.output.text();
        match (ended?, status?) {
            (End::Deadline, _) => Err(Failure::Deadline { limit, output }),
            (End::Cancelled, _) => Err(Failure::Cancelled),
            (End::Ended, status) => match status.map(how_it_ended) {
                None | Some(None) => Ok(()),
                Some(Some(how)) => Err(Failure::Ended { how, output }),
            },
        }
    }

    fn end_within(&mut self, limit: Duration) -> Result<End, Errno> {
        let deadline = Instant::now() + limit;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let [ended, written, cancelled] = self.poll(left)?;
            if written {
                self.output.read();
            }
            if cancelled {
                return Ok(End::Cancelled);
            }
            if ended {
                return Ok(End::Ended);
            }
            if left.is_zero() {
                return Ok(End::Deadline);
            }
        }
    }

    /// Waits, and returns whether there is the end of the hook, output, and a cancel.
    fn poll(&self, left: Duration) -> Result<[bool; 3], Errno> {
        let timeout = Timespec::try_from(left).map_err(|_| Errno::INVAL)?;
        let pipe = self.output.pipe();
        let absent = |fd: &Option<_>| if fd.is_none() { PollFlags::empty() } else { PollFlags::IN };
        // Where there is no other descriptor: that of the process, without events.
        let process = self.spawned.pidfd.as_fd();
        let mut all = [
            PollFd::from_borrowed_fd(process, PollFlags::IN),
            PollFd::from_borrowed_fd(
                pipe.as_ref().map_or(process, AsFd::as_fd),
                absent(&pipe.as_ref().map(AsFd::as_fd)),
            ),
            PollFd::from_borrowed_fd(self.cancel.unwrap_or(process), absent(&self.cancel)),
        ];
        match poll(&mut all, Some(&timeout)) {
            Err(Errno::INTR) => return Ok([false; 3]),
            polled => polled?,
        };
        Ok(all.map(|fd| fd.revents().intersects(PollFlags::IN | PollFlags::HUP)))
    }

    /// With the processes of its group: the hook leads a session.
    fn kill(&self) {
        if let Some(pid) = Pid::from_raw(self.spawned.pid) {
            // It has not been reaped, so the number is its own. Fails when it has ended.
            let _ = kill_process_group(pid, Signal::KILL);
        }
    }
}

enum End {
    Ended,
    Deadline,
    Cancelled,
}

/// None for success.
fn how_it_ended(status: WaitIdStatus) -> Option<String> {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(0), _) => None,
        (Some(code), _) => Some(format!("exit code {code}")),
        (None, signal) => Some(format!("killed by signal {}", signal.unwrap_or(0))),
    }
}

#[cfg(test)]
mod tests {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

    use super::*;

    fn shell(line: &str, timeout: i64) -> Hook {
        let mut hook = Hook::default();
        hook.set_path("/bin/sh".into())
            .set_args(Some(["hook", "-c", line, "named"].map(str::to_owned).to_vec()))
            .set_env(Some(vec!["HOOK=set".to_owned()]))
            .set_timeout(Some(timeout));
        hook
    }

    fn run(hook: &Hook, cancel: Option<BorrowedFd<'_>>) -> Result<(), String> {
        let runner = Runner { state: "{\"id\":\"a\"}", cgroup: None, cancel };
        runner.run(Kind::Prestart, hook, None).map_err(|error| error.to_string())
    }

    #[test]
    fn a_hook_has_its_state_and_environment_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let seen = folder.path().join("seen");
        let leak = rustix::io::dup(io::stdout()).unwrap();
        let line = format!(
            "cat > {0}; echo $0 $HOOK $HOME >> {0}; ls /proc/self/fd | wc -l >> {0}; pwd >> {0}",
            seen.display()
        );
        let mut hook = shell(&line, 10);
        hook.set_env(Some(vec!["HOOK=set".to_owned(), "PATH=/usr/bin:/bin".to_owned()]));
        run(&hook, None).unwrap();
        drop(leak);
        // ls has one more for the folder.
        assert_eq!(std::fs::read_to_string(seen).unwrap(), "{\"id\":\"a\"}named set\n4\n/\n");
    }

    #[test]
    fn a_hook_is_no_part_of_the_server() {
        let folder = tempfile::tempdir().unwrap();
        let seen = folder.path().join("seen");
        let mut hook = shell(&format!("(cat /proc/self/oom_score_adj; ulimit -Sn) > {}", seen.display()), 10);
        hook.set_env(Some(vec!["PATH=/usr/bin:/bin".to_owned()]));
        let score = |score: &str| std::fs::write("/proc/self/oom_score_adj", score);
        let before = std::fs::read_to_string("/proc/self/oom_score_adj").unwrap();
        // Needs no rights to be made higher. A server usually has less than 0.
        let _ = score("-999");
        let (own, limit) =
            (std::fs::read_to_string("/proc/self/oom_score_adj").unwrap(), getrlimit(Resource::Nofile));
        setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();
        let ran = run(&hook, None);
        setrlimit(Resource::Nofile, limit).unwrap();
        let _ = score(before.trim());
        ran.unwrap();
        let usual = limit.maximum.map_or(1024, |most| most.min(1024));
        let expected = if own.starts_with('-') || own == "0\n" { "0\n" } else { own.as_str() };
        assert_eq!(std::fs::read_to_string(seen).unwrap(), format!("{expected}{usual}\n"));
    }

    #[test]
    fn a_failure_has_the_path_the_code_and_the_last_output() {
        let error = run(&shell("echo one >&2; echo out; echo two >&2; exit 3", 10), None).unwrap_err();
        assert_eq!(error, "hooks.prestart: /bin/sh: exit code 3: one; two");
        let error = run(&shell("kill -9 $$", 10), None).unwrap_err();
        assert_eq!(error, "hooks.prestart: /bin/sh: killed by signal 9");
        let mut none = shell("", 1);
        none.set_path("/no/such".into());
        let error = run(&none, None).unwrap_err();
        assert!(error.starts_with("hooks.prestart: /no/such: exec: No such file"), "{error}");
        // More than a pipe holds.
        run(&shell("head -c 300000 /dev/zero >&2", 10), None).unwrap();
    }

    #[test]
    fn a_hook_that_hangs_is_killed_with_its_group() {
        let folder = tempfile::tempdir().unwrap();
        let child = folder.path().join("child");
        let line = format!("sleep 1000 & echo $! > {}; echo waits >&2; wait", child.display());
        let mut hook = shell(&line, 1);
        hook.set_env(Some(vec!["PATH=/usr/bin:/bin".to_owned()]));
        let error = run(&hook, None).unwrap_err();
        assert_eq!(error, "hooks.prestart: /bin/sh: no end within 1s: it was killed: waits");
        let child: i32 = std::fs::read_to_string(child).unwrap().trim().parse().unwrap();
        let begun = Instant::now();
        // It is another process's to reap.
        while std::fs::read_to_string(format!("/proc/{child}/stat")).is_ok_and(|stat| !stat.contains(") Z")) {
            assert!(begun.elapsed() < Duration::from_secs(10), "{child} lives");
        }
    }

    #[test]
    fn a_cancel_kills_a_hook() {
        let (cancel, writer) = rustix::pipe::pipe().unwrap();
        let begun = Instant::now();
        let error = std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(100));
                drop(writer);
            });
            run(&shell("exec sleep 1000", 100), Some(cancel.as_fd())).unwrap_err()
        });
        assert!(error.ends_with("the start was cancelled"), "{error}");
        assert!(begun.elapsed() < Duration::from_secs(20));
    }
}
