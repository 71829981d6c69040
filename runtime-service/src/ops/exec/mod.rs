//! A command in a running container: the common part of ExecSync and Exec.
//!
//! ```text
//!   server                                    monitor
//!   pipes ── the process's ends ─────────────> exec ─> process, in an exec cgroup
//!   Running: exit, or kill of the cgroup
//!   Leftover: what is left in the cgroup after the exit is killed, or stays
//! ```

mod cgroup;
pub(crate) mod changes;
pub(super) mod leftover;
pub(super) mod pipe;

use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use crisp_executor::compile;
use crisp_executor::plan::{self, CgroupJoin};
use crisp_operation::Cancel;
use crisp_sandbox::Pod;
use crisp_sandbox::link::{ExecRequest, Failure, LinkError, MonitorLink, WindowSize};
use oci_spec::runtime::{LinuxSeccomp, Process};

use self::cgroup::{ExecGroup, Joinable};
use self::changes::Changes;
use self::leftover::Leftover;
use super::container_spec;
use crate::cause::{Cause, Operation, StageFailure, Steps};
use crate::container::Container;
use crate::container::state::{Refusal, State};
use crate::convert;
use crate::error::RuntimeError;
use crate::service_state::ServiceState;

const PREPARE: Duration = Duration::from_secs(10);
const START: Duration = Duration::from_secs(60);
/// Time from the kill to the exit.
const KILLED: Duration = Duration::from_secs(5);
/// Interval for checking whether processes of a hung-up command are left.
const LOOK: Duration = Duration::from_millis(200);

/// The command to run.
pub(super) struct Command {
    words: Vec<CString>,
    /// Shown in messages.
    pub(super) line: String,
    terminal: bool,
    /// The initial size of its terminal.
    size: Option<WindowSize>,
    /// The time between SIGHUP and SIGKILL when its client is gone. Zero: it is killed at once.
    grace: Duration,
    /// None for the settings of the container.
    changes: Option<Box<Changes>>,
    /// Whether the monitor may report the start together with the end.
    late_response: bool,
}

impl Command {
    /// # Errors
    /// A word contains a NUL byte.
    pub(super) fn new(words: Vec<String>, terminal: bool, grace: Duration) -> Result<Self, RuntimeError> {
        let line = words.join(" ").chars().take(200).collect();
        let word = |(number, word)| {
            CString::new::<String>(word)
                .map_err(|_| convert::invalid(format!("cmd[{number}]"), "holds a NUL byte"))
        };
        let words = words.into_iter().enumerate().map(word).collect::<Result<_, _>>()?;
        Ok(Self { words, line, terminal, size: None, grace, changes: None, late_response: false })
    }

    pub(super) fn with_size(self, size: Option<WindowSize>) -> Self {
        Self { size, ..self }
    }

    pub(super) fn with_changes(self, changes: Changes) -> Self {
        let changes = (changes != Changes::default()).then(|| Box::new(changes));
        Self { changes, ..self }
    }

    /// For a client that only waits for the end: saves a message for a short command.
    pub(super) fn with_late_response(self) -> Self {
        Self { late_response: true, ..self }
    }

    fn process(self, common: &plan::Process) -> plan::Process {
        let mut process = plan::Process { args: self.words, ..common.clone() };
        process.terminal = self.terminal;
        if self.terminal && !process.env.iter().any(|variable| variable.to_bytes().starts_with(b"TERM=")) {
            process.env.push(c"TERM=xterm".to_owned());
        }
        process
    }
}

/// The process's ends of its streams. None for a null device or its terminal.
#[derive(Default)]
pub(super) struct Stdio {
    pub(super) stdin: Option<OwnedFd>,
    pub(super) stdout: Option<OwnedFd>,
    pub(super) stderr: Option<OwnedFd>,
}

/// The pod of a running container.
///
/// # Errors
/// The container does not run.
pub(super) fn pod_of_running(
    service: &ServiceState,
    container: &Container,
) -> Result<Arc<Pod>, RuntimeError> {
    let status = container.status();
    if !matches!(status.state, State::Running { .. }) {
        let refusal = status.state.refuse("have commands run in it");
        return Err(RuntimeError::Refused { id: container.id().clone(), refusal });
    }
    if status.paused {
        let refusal = Refusal { now: "is paused", wanted: "have commands run in it" };
        return Err(RuntimeError::Refused { id: container.id().clone(), refusal });
    }
    let none = || crisp_sandbox::FindError::None { text: container.metadata.pod.as_str().to_owned() };
    Ok(service.pod_of(container).ok_or_else(none)?)
}

/// Starts the command: returns after its exec. `stdio` is called when everything else is ready; its second
/// result is returned.
pub(super) async fn launch<T>(
    operation: &Operation,
    service: &Arc<ServiceState>,
    container: &Arc<Container>,
    pod: &Arc<Pod>,
    command: Command,
    stdio: impl FnOnce() -> Result<(Stdio, T), Cause>,
) -> Result<(Running, T), StageFailure> {
    let at_once = if command.changes.is_none() { prepare_at_once(service, container, pod) } else { None };
    let prepared = match at_once {
        Some((common, taken)) => Prepared::new(command, &common, taken),
        None => {
            let (service, container, pod) = (service.clone(), container.clone(), pod.clone());
            let prepare = move |steps: &Steps| prepare(&service, &container, &pod, command, steps);
            operation.blocking(PREPARE, prepare).await?
        }
    };
    let start = |_| async {
        let (theirs, ours) = stdio()?;
        let running = start(container, pod, prepared, theirs, service.closing.clone()).await?;
        Ok((running, ours))
    };
    operation.stage("start", START, start).await
}

struct Prepared {
    process: plan::Process,
    join: CgroupJoin,
    fds: Vec<OwnedFd>,
    group: ExecGroup,
    size: Option<WindowSize>,
    grace: Duration,
    late_response: bool,
}

impl Prepared {
    fn new(command: Command, common: &plan::Process, (group, join, fds): Joinable) -> Self {
        let (size, grace, late_response) = (command.size, command.grace, command.late_response);
        Self { process: command.process(common), join, fds, group, size, grace, late_response }
    }
}

/// The fast path for every command after the first: another thread would cost more. None also for failures:
/// the slow path, on a thread that may block, then fails with the name of its stage.
fn prepare_at_once(
    service: &ServiceState,
    container: &Arc<Container>,
    pod: &Pod,
) -> Option<(Arc<plan::Process>, Joinable)> {
    let common = container.exec_process.try_lock().ok()?.clone()?;
    Some((common, ExecGroup::take_idle(service, container, pod).ok()??))
}

fn prepare(
    service: &ServiceState,
    container: &Arc<Container>,
    pod: &Pod,
    command: Command,
    steps: &Steps,
) -> Result<Prepared, StageFailure> {
    let common = match &command.changes {
        None => steps.step("compile", || common_process(service, container, pod))?,
        Some(changes) => {
            steps.step("compile", || compile(changes::process(service, container, pod, changes)?, pod))?
        }
    };
    let taken = steps.step("cgroup", || ExecGroup::take(service, container, pod))?;
    Ok(Prepared::new(command, &common, taken))
}

/// The container's own process; a command replaces its arguments. Compiled once per container: probes run
/// every few seconds.
fn common_process(
    service: &ServiceState,
    container: &Container,
    pod: &Pod,
) -> Result<Arc<plan::Process>, Cause> {
    let mut kept = container.exec_process.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(common) = &*kept {
        return Ok(common.clone());
    }
    let process = container_spec::build_process(service, container, pod, &container.metadata.user)?;
    let common = compile(process, pod)?;
    *kept = Some(common.clone());
    Ok(common)
}

fn compile(
    (mut process, seccomp): (Process, Option<LinuxSeccomp>),
    pod: &Pod,
) -> Result<Arc<plan::Process>, Cause> {
    process.set_terminal(Some(false));
    let mappings = pod.config.user.as_ref();
    Ok(Arc::new(compile::compile_process(&process, seccomp.as_ref(), mappings)?))
}

/// A command under way; killed when dropped before its end is known. When the server ends, the monitor gives
/// it its grace period.
pub(super) struct Running {
    link: MonitorLink,
    exec: u64,
    /// None once the command has ended or is being killed.
    group: Option<ExecGroup>,
    /// See [`ServiceState`].
    closing: Cancel,
    pub(super) grace: Duration,
    /// The terminal of a command that has one.
    pub(super) terminal: Option<OwnedFd>,
}

async fn start(
    container: &Container,
    pod: &Pod,
    prepared: Prepared,
    Stdio { stdin, stdout, stderr }: Stdio,
    closing: Cancel,
) -> Result<Running, Cause> {
    let link = pod.link()?;
    let exec = link.next_exec_id();
    let request = ExecRequest {
        exec_id: exec,
        container: container.id().clone(),
        process: prepared.process,
        cgroup: prepared.join,
        fds: prepared.fds,
        stdin,
        stdout,
        stderr,
        size: prepared.size,
        grace_ms: u32::try_from(prepared.grace.as_millis()).unwrap_or(u32::MAX),
        late_response: prepared.late_response,
    };
    let (group, grace) = (Some(prepared.group), prepared.grace);
    // The process is also killed when this future is dropped.
    let mut running = Running { link: link.clone(), exec, group, closing, grace, terminal: None };
    match link.exec(request).await {
        Ok(started) => {
            running.terminal = started.terminal;
            Ok(running)
        }
        Err(error) => {
            let never_ran = matches!(
                error,
                LinkError::Stage(_)
                    | LinkError::Refused { .. }
                    | LinkError::Unsent { .. }
                    | LinkError::TooManyDescriptors { .. }
            );
            if never_ran {
                running.group = None;
            }
            Err(error.into())
        }
    }
}

/// Whether a command gets SIGHUP before it is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HangUp {
    Sent,
    /// It has ended before, by itself.
    TooLate,
    /// The monitor is of an earlier release.
    Impossible,
}

/// The end of a command.
pub(super) struct Ended {
    pub(super) code: i32,
    pub(super) leftover: Leftover,
}

impl Running {
    /// Waits for the end without a limit. Processes that the command left behind stay alive.
    pub(super) async fn wait(&mut self) -> Result<i32, LinkError> {
        let Ended { code, leftover } = self.end().await?;
        leftover.stay();
        Ok(code)
    }

    /// Waits for the end without a limit.
    pub(super) async fn end(&mut self) -> Result<Ended, LinkError> {
        let status = self.link.wait_exec(self.exec).await;
        let group = self.group.take();
        match status {
            Ok(status) => Ok(Ended { code: status.code(), leftover: Leftover::new(group) }),
            Err(error) => {
                group.into_iter().for_each(ExecGroup::give_up);
                Err(error)
            }
        }
    }

    /// The end, if it is known already.
    pub(super) async fn ended(&mut self) -> Option<Result<Ended, LinkError>> {
        tokio::select! {
            biased;
            end = self.end() => Some(end),
            () = std::future::ready(()) => None,
        }
    }

    /// Sends SIGHUP to the process group of a command whose client is gone.
    pub(super) async fn send_hang_up(&mut self) -> HangUp {
        let sent = self.link.signal_exec(self.exec, rustix::process::Signal::HUP.as_raw()).await;
        match sent.as_ref().err().and_then(LinkError::failure) {
            Some(Failure::UnknownOperation { .. }) => HangUp::Impossible,
            Some(Failure::UnknownExec { .. }) => HangUp::TooLate,
            // It gets the signal now or later: when a slow monitor reads it, or knows that this link is gone.
            None | Some(_) => HangUp::Sent,
        }
    }

    /// Ends a command after its SIGHUP: after the grace period all processes that it started get SIGKILL.
    pub(super) async fn end_in_time(mut self, hang_up: HangUp) {
        match hang_up {
            // As without a loss, what it has left stays.
            HangUp::TooLate => {
                let _ = self.wait().await;
                return;
            }
            HangUp::Sent if self.group.is_some() => tokio::select! {
                () = tokio::time::sleep(self.grace) => {}
                () = self.all_ended() => {}
            },
            HangUp::Sent | HangUp::Impossible => {}
        }
        self.kill().await;
    }

    /// Returns when none of its processes is left, including those that it started.
    async fn all_ended(&mut self) {
        // The status is no longer needed.
        let _ = self.link.wait_exec(self.exec).await;
        while self.group.as_ref().is_some_and(ExecGroup::is_populated) {
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Kills it and all processes that it started.
    pub(super) async fn kill(mut self) {
        // Once it has ended, its cgroup may be that of another command.
        let Some(group) = self.group.take() else { return };
        self.link.kill_exec(self.exec).await.ok();
        group.kill();
        // Collects its status from the link. A process that SIGKILL does not end at once is not waited for.
        tokio::time::timeout(KILLED, self.link.wait_exec(self.exec)).await.ok();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let Some(group) = self.group.take() else { return };
        if self.closing.is_cancelled() {
            return group.give_up();
        }
        group.kill();
        let (link, exec) = (self.link.clone(), self.exec);
        tokio::spawn(async move {
            link.kill_exec(exec).await.ok();
            tokio::time::timeout(KILLED, link.wait_exec(exec)).await.ok();
        });
    }
}
