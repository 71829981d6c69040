//! ExecSync: one command in a running container, its output collected within bounds.
//!
//! ```text
//!   server                                    monitor
//!   pipes ── writing ends ──────────────────> exec ─> process
//!   reading ends ─> async readers (capped)
//!   exit, or deadline ─> kill ─> a short drain ─> answer
//! ```

use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crisp_executor::cgroup::Group;
use crisp_executor::compile;
use crisp_executor::plan::{self, CgroupJoin, FdIndex};
use crisp_sandbox::Pod;
use crisp_sandbox::link::{ExecRequest, LinkError, MonitorLink};
use rustix::pipe::PipeFlags;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;

use super::start::read_spec;
use crate::container::Container;
use crate::container::state::State;
use crate::core::{Core, cgroup_path};
use crate::error::RuntimeError;
use crate::stage::{Cause, Failure, StageFailure, Steps};

const OPERATION: &str = "exec";
const PREPARE: Duration = Duration::from_secs(10);
const START: Duration = Duration::from_secs(60);
/// For the exit to be told after the kill.
const KILLED: Duration = Duration::from_secs(5);
/// For output still in the pipes after the command's end. Whoever holds them longer is a process that
/// the command left behind, whose output belongs to nobody.
const DRAIN: Duration = Duration::from_millis(200);
/// Of each stream; what exceeds it is read and dropped, so that the command does not hang.
const MAX_OUTPUT: usize = 16 << 20;

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
    core: &Arc<Core>,
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
    let pod = core.pod_of(container).ok_or_else(|| pod_gone(container))?;
    let prepared = prepare(core, container, &pod, command).await.map_err(failed)?;
    let (stdout, to_stdout) = stream().map_err(|e| failed(StageFailure { stage: "pipes", cause: e }))?;
    let (stderr, to_stderr) = stream().map_err(|e| failed(StageFailure { stage: "pipes", cause: e }))?;
    let running = launch(core, container, &pod, prepared, to_stdout, to_stderr).await.map_err(failed)?;
    let (stdout, stderr) = (Collector::read(stdout), Collector::read(stderr));
    let timer = core.exec_seconds.start_timer();
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
    crisp_sandbox::FindError::None { text: container.facts.pod.as_str().to_owned() }.into()
}

struct Prepared {
    process: plan::Process,
    join: CgroupJoin,
    fds: Vec<OwnedFd>,
    mark: Mark,
}

async fn prepare(
    core: &Arc<Core>,
    container: &Arc<Container>,
    pod: &Arc<Pod>,
    command: Vec<String>,
) -> Result<Prepared, StageFailure> {
    let (owned, container, pod) = (core.clone(), container.clone(), pod.clone());
    let work = move |steps: &Steps| {
        let process = steps.step("compile", || process(&container, command))?;
        let (mark, join, fds) = steps.step("cgroup", || join_cgroup(&owned, &container, &pod))?;
        Ok(Prepared { process, join, fds, mark })
    };
    core.stages(OPERATION).blocking(PREPARE, work).await
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

/// The mark on all processes of one exec.
struct Mark {
    container: Arc<Container>,
    /// None once given away.
    group: Option<Group>,
}

impl Mark {
    fn kill(&mut self) {
        let Some(group) = self.group.take() else { return };
        let container = self.container.clone();
        tokio::task::spawn_blocking(move || {
            if let Err(error) = group.kill() {
                tracing::warn!(container = %container.id(), %error, "cannot end all that an exec started");
            }
            give_back(&container, group);
        });
    }
}

impl Drop for Mark {
    /// The usual end: whoever the command left behind may live on.
    fn drop(&mut self) {
        if let Some(group) = self.group.take() {
            give_back(&self.container, group);
        }
    }
}

/// A mark that is still on somebody is tried again with the next exec, so that probes which leave
/// processes behind do not leave cgroups behind for ever.
fn give_back(container: &Container, group: Group) {
    let mut left = container.marks.lock().unwrap_or_else(PoisonError::into_inner);
    left.push(group);
    left.retain(|group| matches!(group.remove_if_empty(), Ok(false)));
}

fn join_cgroup(
    core: &Core,
    container: &Arc<Container>,
    pod: &Pod,
) -> Result<(Mark, CgroupJoin, Vec<OwnedFd>), Cause> {
    let cgroup = core.cgroups.open(&cgroup_path(pod, container.id())?)?;
    let number = core.exec_number.fetch_add(1, Ordering::Relaxed);
    let group = cgroup.group(&format!("exec-{number}"))?;
    let joined = group.join();
    let mark = Mark { container: container.clone(), group: Some(group) };
    let joined = joined?;
    let mut fds = Vec::new();
    let mut index = |fd: OwnedFd| {
        fds.push(fd);
        FdIndex(u16::try_from(fds.len() - 1).unwrap_or(u16::MAX))
    };
    let join = CgroupJoin {
        v2: joined.v2.map(&mut index),
        v1_tasks: joined.v1_tasks.into_iter().map(&mut index).collect(),
        oom_events: None,
    };
    Ok((mark, join, fds))
}

/// A pipe: our asynchronous reading end, and the end to pass on.
fn stream() -> Result<(pipe::Receiver, OwnedFd), Cause> {
    let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(Cause::Kernel)?;
    let receiver =
        pipe::Receiver::from_owned_fd(read).map_err(|e| Cause::Task(format!("cannot watch a pipe: {e}")))?;
    Ok((receiver, write))
}

/// A command under way; killed when dropped before its end is known.
struct Running {
    link: MonitorLink,
    exec: u64,
    ended: bool,
    mark: Mark,
}

async fn launch(
    core: &Core,
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
            process: &prepared.process,
            cgroup: &prepared.join,
            fds: prepared.fds,
            stdin: None,
            stdout: Some(stdout),
            stderr: Some(stderr),
            size: None,
        };
        link.exec(request).await?;
        Ok(Running { link, exec, ended: false, mark: prepared.mark })
    };
    core.stages(OPERATION).run("start", START, work).await
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
        self.mark.kill();
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
        self.mark.kill();
        let (link, exec) = (self.link.clone(), self.exec);
        tokio::spawn(async move {
            link.kill_exec(exec).await.ok();
            tokio::time::timeout(KILLED, link.wait_exec(exec)).await.ok();
        });
    }
}

/// Reads one stream, up to the cap, in a task that ends with the collector.
struct Collector {
    data: Arc<Mutex<Vec<u8>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Collector {
    fn read(mut from: pipe::Receiver) -> Self {
        let data = Arc::new(Mutex::new(Vec::new()));
        let into = data.clone();
        let task = tokio::spawn(async move {
            let mut chunk = vec![0; 16 << 10];
            while let Ok(n @ 1..) = from.read(&mut chunk).await {
                let mut data = into.lock().unwrap_or_else(PoisonError::into_inner);
                let room = MAX_OUTPUT - data.len();
                data.extend_from_slice(&chunk[..n.min(room)]);
            }
        });
        Self { data, task }
    }

    /// What was read when the stream ended, or when the drain time was over.
    async fn finish(mut self) -> Vec<u8> {
        if tokio::time::timeout(DRAIN, &mut self.task).await.is_err() {
            self.task.abort();
        }
        std::mem::take(&mut self.data.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn output_beyond_the_cap_is_dropped_not_left_in_the_pipe() {
        let (receiver, write) = stream().unwrap();
        let collector = Collector::read(receiver);
        let written = tokio::task::spawn_blocking(move || {
            let chunk = vec![7u8; 1 << 20];
            let mut total = 0;
            while total < MAX_OUTPUT + (2 << 20) {
                total += rustix::io::write(&write, &chunk).unwrap();
            }
            total
        });
        assert!(written.await.unwrap() > MAX_OUTPUT);
        assert_eq!(collector.finish().await.len(), MAX_OUTPUT);
    }

    #[tokio::test]
    async fn a_pipe_held_open_by_a_stranger_does_not_hang() {
        let (receiver, write) = stream().unwrap();
        rustix::io::write(&write, b"said").unwrap();
        let collector = Collector::read(receiver);
        let begun = std::time::Instant::now();
        assert_eq!(collector.finish().await, b"said");
        assert!(begun.elapsed() < Duration::from_secs(2));
        drop(write);
    }
}
