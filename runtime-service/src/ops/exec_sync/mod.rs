//! ExecSync: one command in a running container, its output collected within bounds.
//!
//! ```text
//!   server                                    monitor
//!   pipes ── writing ends ──────────────────> exec ─> process
//!   reading ends ─> async readers (capped)
//!   exit, or deadline ─> kill ─> a short drain ─> answer
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

use self::cgroup::ExecCgroup;
use self::output::{Collector, stream};
use super::container_start::read_spec;
use crate::container::Container;
use crate::container::state::State;
use crate::error::RuntimeError;
use crate::service_state::ServiceState;
use crate::stage::{Cause, Failure, StageFailure, Steps};

const OPERATION: &str = "exec";
const PREPARE: Duration = Duration::from_secs(10);
const START: Duration = Duration::from_secs(60);
/// For the exit to be told after the kill.
const KILLED: Duration = Duration::from_secs(5);
/// What a command said and how it ended.
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
    let state = container.status();
    if !matches!(state.state, State::Running { .. }) {
        return Err(RuntimeError::Refused { id, refusal: state.state.refuse("have commands run in it") });
    }
    let shown = command.join(" ").chars().take(200).collect();
    let failed =
        |failure| Failure { subject: format!("container {id}"), operation: OPERATION, failure, undo: vec![] };
    let pod = service.pod_of(container).ok_or_else(|| pod_gone(container))?;
    let prepared = prepare(service, container, &pod, command).await.map_err(failed)?;
    let (stdout, to_stdout) = stream().map_err(|e| failed(StageFailure { stage: "pipes", cause: e }))?;
    let (stderr, to_stderr) = stream().map_err(|e| failed(StageFailure { stage: "pipes", cause: e }))?;
    let running = launch(service, container, &pod, prepared, to_stdout, to_stderr).await.map_err(failed)?;
    let (stdout, stderr) = (Collector::read(stdout), Collector::read(stderr));
    let timer = service.exec_seconds.start_timer();
    let status = running.wait(limit).await;
    timer.observe_duration();
    match status {
        Ok(Some(code)) => Ok(Output { stdout: stdout.finish().await, stderr: stderr.finish().await, code }),
        Ok(None) => {
            let after = limit.unwrap_or_default();
            Err(RuntimeError::ExecDeadline { id, command: shown, after })
        }
        Err(error) => Err(failed(StageFailure { stage: "wait", cause: error.into() }).into()),
    }
}

fn pod_gone(container: &Container) -> RuntimeError {
    crisp_sandbox::FindError::None { text: container.metadata.pod.as_str().to_owned() }.into()
}

struct Prepared {
    process: plan::Process,
    join: CgroupJoin,
    fds: Vec<OwnedFd>,
    exec_cgroup: ExecCgroup,
}

async fn prepare(
    service: &Arc<ServiceState>,
    container: &Arc<Container>,
    pod: &Arc<Pod>,
    command: Vec<String>,
) -> Result<Prepared, StageFailure> {
    let (owned, container, pod) = (service.clone(), container.clone(), pod.clone());
    let work = move |steps: &Steps| {
        let process = steps.step("compile", || process(&container, command))?;
        let (exec_cgroup, join, fds) = steps.step("cgroup", || cgroup::join(&owned, &container, &pod))?;
        Ok(Prepared { process, join, fds, exec_cgroup })
    };
    service.stages(OPERATION).blocking(PREPARE, work).await
}

/// The container's own process with other arguments. Compiled once per container: a probe runs every
/// few seconds.
fn process(container: &Container, command: Vec<String>) -> Result<plan::Process, Cause> {
    let mut kept = container.exec.lock().unwrap_or_else(PoisonError::into_inner);
    let common = match &*kept {
        Some(common) => common.clone(),
        None => {
            let common = Arc::new(compile_common(container)?);
            *kept = Some(common.clone());
            common
        }
    };
    drop(kept);
    let mut process = plan::Process::clone(&common);
    process.args = command
        .into_iter()
        .map(|word| {
            CString::new(word).map_err(|_| Cause::Task("a word of the command holds a NUL byte".to_owned()))
        })
        .collect::<Result<_, _>>()?;
    Ok(process)
}

fn compile_common(container: &Container) -> Result<plan::Process, Cause> {
    let mut spec = read_spec(container)?;
    let seccomp = spec.linux().as_ref().and_then(|linux| linux.seccomp().clone());
    let mut process =
        spec.process_mut().take().ok_or_else(|| Cause::Task("the spec has no process".to_owned()))?;
    process.set_terminal(Some(false));
    Ok(compile::compile_process(&process, seccomp.as_ref())?)
}

/// A command under way; killed when dropped before its end is known.
struct Running {
    link: MonitorLink,
    exec: u64,
    ended: bool,
    exec_cgroup: ExecCgroup,
}

async fn launch(
    service: &ServiceState,
    container: &Container,
    pod: &Pod,
    prepared: Prepared,
    stdout: OwnedFd,
    stderr: OwnedFd,
) -> Result<Running, StageFailure> {
    let work = async {
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
        Ok(Running { link, exec, ended: false, exec_cgroup: prepared.exec_cgroup })
    };
    service.stages(OPERATION).run("start", START, work).await
}

impl Running {
    /// None: it did not end in time and has been killed.
    async fn wait(mut self, limit: Option<Duration>) -> Result<Option<i32>, LinkError> {
        let waited = match limit {
            Some(limit) => tokio::time::timeout(limit, self.link.wait_exec(self.exec)).await,
            None => Ok(self.link.wait_exec(self.exec).await),
        };
        if let Ok(status) = waited {
            self.ended = true;
            return status.map(|status| Some(status.code()));
        }
        self.link.kill_exec(self.exec).await.ok();
        self.exec_cgroup.kill();
        // Collected, so that nobody keeps its status; a process that even SIGKILL does not end at
        // once is not waited for.
        self.ended = tokio::time::timeout(KILLED, self.link.wait_exec(self.exec)).await.is_ok();
        Ok(None)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        self.exec_cgroup.kill();
        let (link, exec) = (self.link.clone(), self.exec);
        tokio::spawn(async move {
            link.kill_exec(exec).await.ok();
            tokio::time::timeout(KILLED, link.wait_exec(exec)).await.ok();
        });
    }
}
