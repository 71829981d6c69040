//! ExecSync: one command in a running container, its output collected within bounds.
//!
//! ```text
//!   server                                    monitor
//!   pipes ── writing ends ──────────────────> exec ─> process
//!   reading ends ─> async readers (capped)
//!   exit, or deadline ─> kill ─> a short drain ─> response
//! ```

mod cgroup;
mod output;

use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use crisp_executor::compile;
use crisp_executor::plan::{self, CgroupJoin};
use crisp_sandbox::Pod;
use crisp_sandbox::link::{ExecRequest, LinkError, MonitorLink};
use tokio::net::unix::pipe;

use self::cgroup::ExecGroup;
use self::output::{Collector, stream};
use super::container_spec;
use crate::cause::{Cause, Operation, StageFailure, Steps};
use crate::container::Container;
use crate::container::state::State;
use crate::convert;
use crate::error::RuntimeError;
use crate::service_state::ServiceState;

const OPERATION: &str = "exec";
const PREPARE: Duration = Duration::from_secs(10);
const START: Duration = Duration::from_secs(60);
/// From the kill to the exit.
const KILLED: Duration = Duration::from_secs(5);

/// What a command wrote and how it ended.
#[derive(Debug)]
pub struct Output {
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    pub code: i32,
}

/// Runs `command` and waits for its end. `limit`: None waits as long as it takes.
///
/// # Errors
/// A container that does not run, a command that cannot be started, or the deadline, at which the
/// command has been killed. Dropping the future kills it too.
pub async fn exec_sync(
    service: &Arc<ServiceState>,
    container: &Arc<Container>,
    command: Vec<String>,
    limit: Option<Duration>,
) -> Result<Output, RuntimeError> {
    let id = container.id().clone();
    let status = container.status();
    if !matches!(status.state, State::Running { .. }) {
        return Err(RuntimeError::Refused { id, refusal: status.state.refuse("have commands run in it") });
    }
    let pod = service
        .pod_of(container)
        .ok_or_else(|| crisp_sandbox::FindError::None { text: container.metadata.pod.as_str().to_owned() })?;
    let shown = command.join(" ").chars().take(200).collect();
    let words = words(command)?;
    let operation = service.operation(OPERATION, &id);
    let launched = launch(&operation, service, container, &pod, words).await;
    let (running, outputs) = operation.finish(launched).await?;
    let timer = service.exec_seconds.start_timer();
    let status = running.wait(limit).await;
    timer.observe_duration();
    match status {
        Ok(Some(code)) => outputs.finish(code).await,
        Ok(None) => Err(RuntimeError::ExecDeadline { id, command: shown, after: limit.unwrap_or_default() }),
        Err(error) => {
            let operation = service.operation(OPERATION, &id);
            operation.finish(Err(StageFailure { stage: "wait", cause: error.into() })).await?
        }
    }
}

fn words(command: Vec<String>) -> Result<Vec<CString>, RuntimeError> {
    let word = |(number, word)| {
        CString::new::<String>(word)
            .map_err(|_| convert::invalid(format!("cmd[{number}]"), "holds a NUL byte"))
    };
    Ok(command.into_iter().enumerate().map(word).collect::<Result<_, _>>()?)
}

/// The streams of a command under way.
struct Outputs {
    stdout: Collector,
    stderr: Collector,
}

impl Outputs {
    async fn finish(self, code: i32) -> Result<Output, RuntimeError> {
        Ok(Output { stdout: self.stdout.finish().await, stderr: self.stderr.finish().await, code })
    }
}

struct Prepared {
    process: plan::Process,
    join: CgroupJoin,
    fds: Vec<OwnedFd>,
    group: ExecGroup,
}

async fn launch(
    operation: &Operation,
    service: &Arc<ServiceState>,
    container: &Arc<Container>,
    pod: &Arc<Pod>,
    words: Vec<CString>,
) -> Result<(Running, Outputs), StageFailure> {
    let prepared = {
        let (service, container, pod) = (service.clone(), container.clone(), pod.clone());
        operation.blocking(PREPARE, move |steps| prepare(&service, &container, &pod, words, steps)).await?
    };
    let start = |_| async {
        let (stdout, to_stdout) = stream()?;
        let (stderr, to_stderr) = stream()?;
        let running = start(container, pod, prepared, to_stdout, to_stderr).await?;
        Ok((running, stdout, stderr))
    };
    let (running, stdout, stderr): (_, pipe::Receiver, pipe::Receiver) =
        operation.stage("start", START, start).await?;
    Ok((running, Outputs { stdout: Collector::read(stdout), stderr: Collector::read(stderr) }))
}

fn prepare(
    service: &ServiceState,
    container: &Arc<Container>,
    pod: &Pod,
    words: Vec<CString>,
    steps: &Steps,
) -> Result<Prepared, StageFailure> {
    let common = steps.step("compile", || common_process(service, container, pod))?;
    let process = plan::Process { args: words, ..plan::Process::clone(&common) };
    let (group, join, fds) = steps.step("cgroup", || ExecGroup::take(service, container, pod))?;
    Ok(Prepared { process, join, fds, group })
}

/// The container's own process, whose arguments the command replaces. Compiled once per container: probes
/// run every few seconds.
fn common_process(
    service: &ServiceState,
    container: &Container,
    pod: &Pod,
) -> Result<Arc<plan::Process>, Cause> {
    let mut kept = container.exec_process.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(common) = &*kept {
        return Ok(common.clone());
    }
    let (mut process, seccomp) = container_spec::build_process(service, container, pod)?;
    process.set_terminal(Some(false));
    let common = Arc::new(compile::compile_process(&process, seccomp.as_ref())?);
    *kept = Some(common.clone());
    Ok(common)
}

/// A command under way; killed when dropped before its end is known.
struct Running {
    link: MonitorLink,
    exec: u64,
    /// None once the command has ended or is being killed.
    group: Option<ExecGroup>,
}

async fn start(
    container: &Container,
    pod: &Pod,
    prepared: Prepared,
    stdout: OwnedFd,
    stderr: OwnedFd,
) -> Result<Running, Cause> {
    let link = pod.link()?;
    let exec = link.next_exec_id();
    let request = ExecRequest {
        exec_id: exec,
        container: container.id().clone(),
        process: prepared.process,
        cgroup: prepared.join,
        fds: prepared.fds,
        stdin: None,
        stdout: Some(stdout),
        stderr: Some(stderr),
        size: None,
    };
    link.exec(request).await?;
    Ok(Running { link, exec, group: Some(prepared.group) })
}

impl Running {
    /// None: it did not end in time and has been killed.
    async fn wait(mut self, limit: Option<Duration>) -> Result<Option<i32>, LinkError> {
        let waited = match limit {
            Some(limit) => tokio::time::timeout(limit, self.link.wait_exec(self.exec)).await,
            None => Ok(self.link.wait_exec(self.exec).await),
        };
        if let Ok(status) = waited {
            // Processes that the command left behind live on.
            self.group = None;
            return status.map(|status| Some(status.code()));
        }
        self.link.kill_exec(self.exec).await.ok();
        if let Some(group) = self.group.take() {
            group.kill();
        }
        // Its status is collected from the link. A process that SIGKILL does not end at once is not waited for.
        tokio::time::timeout(KILLED, self.link.wait_exec(self.exec)).await.ok();
        Ok(None)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let Some(group) = self.group.take() else { return };
        group.kill();
        let (link, exec) = (self.link.clone(), self.exec);
        tokio::spawn(async move {
            link.kill_exec(exec).await.ok();
            tokio::time::timeout(KILLED, link.wait_exec(exec)).await.ok();
        });
    }
}
