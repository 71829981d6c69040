//! `crisp oci exec`: runs another process in a container.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use crisp_executor::cgroup::Cgroups;
use crisp_executor::compile;
use crisp_executor::run::{Progress, Starting, detached};
use crisp_executor::user_namespace::UserNamespace;
use oci_spec::runtime::{Process, Spec, User};
use rustix::fd::{AsFd as _, OwnedFd};
use rustix::fs::{Mode, OFlags, open};
use rustix::process::{Signal, pidfd_send_signal};

use super::console::Console;
use super::foreground::Foreground;
use super::id::OciId;
use super::options::ProcessOptions;
use super::record::Record;
use super::runtime_log::RuntimeLog;
use super::state_folder::StateFolder;
use super::{cgroup, pid_file, protected_program, status, streams};

/// Run a command in a container
#[derive(Debug, clap::Args)]
pub struct Exec {
    /// File with the process as in config.json, instead of a command
    #[arg(long, short, value_name = "FILE")]
    process: Option<PathBuf>,
    /// Return as soon as the process runs
    #[arg(long, short)]
    detach: bool,
    /// Give the process a terminal
    #[arg(long, short)]
    tty: bool,
    /// Working directory
    #[arg(long, value_name = "PATH")]
    cwd: Option<PathBuf>,
    /// Variable NAME=value, in addition to those of the container
    #[arg(long, short, value_name = "NAME=VALUE")]
    env: Vec<String>,
    /// User and group, as numbers
    #[arg(long, short, value_name = "UID[:GID]")]
    user: Option<String>,
    #[command(flatten)]
    options: ProcessOptions,
    id: OciId,
    /// Command and its arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

impl Exec {
    pub fn run(self, root: &Path, log: &RuntimeLog) -> anyhow::Result<ExitCode> {
        protected_program::ensure()?;
        streams::check_preserved(self.options.preserve_fds)?;
        let folder = StateFolder::open(root, &self.id)?;
        let record = folder.whole_record(&self.id)?;
        let init = status::live(&folder, &record, &self.id, "exec in")?;
        let spec = folder.spec()?;
        let process = self.of_process(&spec)?;
        let socket = self.options.console_socket.as_deref();
        let console = Console::choose(process.terminal().unwrap_or(false), socket, !self.detach)?;
        let foreground = if self.detach { None } else { Some(Foreground::begin()?) };
        let starting = start(&record, &spec, process, &init, self.options.preserve_fds)?;
        let begun = wait(&starting, &console, log).and_then(|terminal| {
            let pid_file = self.options.pid_file.as_deref();
            pid_file.map_or(Ok(()), |path| pid_file::write(path, starting.pid))?;
            Ok(terminal)
        });
        // Callers assume after a failure that nothing runs.
        let ended = begun.and_then(|terminal| match foreground {
            Some(foreground) => foreground.wait(starting.pid, &starting.pidfd, terminal),
            None => Ok(ExitCode::SUCCESS),
        });
        ended.inspect_err(|_| {
            let _ = pidfd_send_signal(&starting.pidfd, Signal::KILL);
        })
    }

    fn of_process(&self, spec: &Spec) -> anyhow::Result<Process> {
        let mut process = match &self.process {
            Some(path) => {
                if !self.command.is_empty() {
                    bail!(
                        "--process {}: has a command already; leave out {:?}",
                        path.display(),
                        self.command
                    );
                }
                read(path).with_context(|| format!("--process {}", path.display()))?
            }
            None => self.of_container(spec)?,
        };
        if self.tty {
            process.set_terminal(Some(true));
        }
        if let Some(cwd) = &self.cwd {
            process.set_cwd(cwd.clone());
        }
        if let Some(user) = &self.user {
            let changed = change_user(process.user(), user).with_context(|| format!("--user {user:?}"))?;
            process.set_user(changed);
        }
        let env = process.env().iter().flatten().chain(&self.env).cloned().collect();
        process.set_env(Some(env));
        Ok(process)
    }

    /// The container's own process settings with another command and without a terminal.
    fn of_container(&self, spec: &Spec) -> anyhow::Result<Process> {
        if self.command.is_empty() {
            bail!("there is no command to run: name one, or --process FILE");
        }
        let mut process = spec.process().clone().context("process: missing in config.json")?;
        process.set_args(Some(self.command.clone())).set_terminal(None).set_console_size(None);
        Ok(process)
    }
}

fn read(path: &Path) -> anyhow::Result<Process> {
    Ok(serde_json::from_slice(&fs::read(path)?)?)
}

/// As runc does: what is not named stays, groups and umask included.
fn change_user(of_process: &User, text: &str) -> anyhow::Result<User> {
    let (uid, gid) = text.split_once(':').map_or((text, None), |(uid, gid)| (uid, Some(gid)));
    let mut user = of_process.clone();
    user.set_uid(uid.parse().context("the user is no number")?);
    if let Some(gid) = gid {
        user.set_gid(gid.parse().context("the group is no number")?);
    }
    Ok(user)
}

fn start(
    record: &Record,
    spec: &Spec,
    mut process: Process,
    init: &OwnedFd,
    preserved: u32,
) -> anyhow::Result<Starting> {
    let stdio = streams::inherited(&mut process, preserved)?;
    let seccomp = spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref());
    let process = compile::compile_process(&process, seccomp, record.mappings.as_ref())?;
    let user = user_namespace(record)?;
    let mut fds = Vec::new();
    let cgroup = cgroup::for_exec(&Cgroups::detect()?, record)?;
    let join = compile::compile_join(cgroup.join()?, &mut fds)?;
    let id = &record.executor_id;
    Ok(detached::exec(id, &process, &join, &fds, stdio, init.as_fd(), user.as_ref())?)
}

/// The user namespace of the container, if it has one: its PID namespace belongs to it.
fn user_namespace(record: &Record) -> anyhow::Result<Option<UserNamespace>> {
    let (Some(mappings), Some(init)) = (&record.mappings, record.init) else { return Ok(None) };
    let path = format!("/proc/{}/ns/mnt", init.pid);
    let namespace = open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).context(path)?;
    Ok(Some(UserNamespace::owner_of(namespace.as_fd(), mappings.clone())?))
}

fn wait(starting: &Starting, console: &Console, log: &RuntimeLog) -> anyhow::Result<Option<OwnedFd>> {
    let mut terminal = None;
    loop {
        match starting.report.wait().context("wait for the process")? {
            Progress::Pending | Progress::Prepared | Progress::Waiting => {}
            Progress::Notes(notes) => notes.iter().for_each(|note| log.warn(&note.to_string())),
            Progress::Terminal(master) => terminal = console.take(master)?,
            Progress::Failed(error) => return Err(error.into()),
            Progress::Executed => return Ok(terminal),
        }
    }
}
