//! ExecSync: one command in a running container, its output collected within bounds.
//!
//! ```text
//!   reading ends of its pipes ─> async readers (capped)
//!   exit, or deadline ─> kill ─> a short drain ─> response
//! ```

mod output;

use std::sync::Arc;
use std::time::Duration;

use self::output::Collector;
use super::exec::{self, Command, Stdio, pipe};
use crate::cause::{Cause, StageFailure};
use crate::container::Container;
use crate::error::RuntimeError;
use crate::service_state::ServiceState;

const OPERATION: &str = "exec";

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
    let pod = exec::pod_of_running(service, container)?;
    let command = Command::new(command, false, Duration::ZERO)?;
    let line = command.line.clone();
    let operation = service.operation(OPERATION, &id);
    let launched = exec::launch(&operation, service, container, &pod, command, streams).await;
    let (mut running, outputs) = operation.finish(launched).await?;
    let timer = service.exec_seconds.start_timer();
    let waited = match limit {
        Some(limit) => tokio::time::timeout(limit, running.wait()).await,
        None => Ok(running.wait().await),
    };
    let Ok(status) = waited else {
        running.kill().await;
        timer.observe_duration();
        return Err(RuntimeError::ExecDeadline { id, command: line, after: limit.unwrap_or_default() });
    };
    timer.observe_duration();
    match status {
        Ok(code) => Ok(outputs.finish(code).await),
        Err(error) => {
            let operation = service.operation(OPERATION, &id);
            operation.finish(Err(StageFailure { stage: "wait", cause: error.into() })).await?
        }
    }
}

fn streams() -> Result<(Stdio, Outputs), Cause> {
    let (stdout, to_stdout) = pipe::output()?;
    let (stderr, to_stderr) = pipe::output()?;
    let theirs = Stdio { stdin: None, stdout: Some(to_stdout), stderr: Some(to_stderr) };
    Ok((theirs, Outputs { stdout: Collector::read(stdout), stderr: Collector::read(stderr) }))
}

/// The streams of a command under way.
struct Outputs {
    stdout: Collector,
    stderr: Collector,
}

impl Outputs {
    async fn finish(self, code: i32) -> Output {
        Output { stdout: self.stdout.finish().await, stderr: self.stderr.finish().await, code }
    }
}
