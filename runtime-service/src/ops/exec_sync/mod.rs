//! ExecSync: one command in a running container, its output collected within bounds.
//!
//! ```text
//!   reading ends of its pipes ─> read (capped) until its exit
//!   exit ─> a short drain ─> response; deadline ─> kill
//! ```
//!
//! Most commands are probes that end within milliseconds: their end comes with the response to the start, and what they
//! have written is read then, without polling.

mod output;

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use self::output::Outputs;
use super::exec::{self, Command, Running, Stdio, pipe};
use crate::cause::{Cause, StageFailure};
use crate::container::Container;
use crate::error::RuntimeError;
use crate::service_state::ServiceState;

const OPERATION: &str = "exec";

/// The output of a command and its exit code.
#[derive(Debug)]
pub struct Output {
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    pub code: i32,
}

/// Runs `command` and waits for its end. `limit`: None for no time limit.
///
/// # Errors
/// The container does not run, the command cannot be started, or the deadline has passed and the command has
/// been killed. Dropping the future kills it too.
pub async fn exec_sync(
    service: &Arc<ServiceState>,
    container: &Arc<Container>,
    command: Vec<String>,
    limit: Option<Duration>,
) -> Result<Output, RuntimeError> {
    let id = container.id().clone();
    let pod = exec::pod_of_running(service, container)?;
    let command = Command::new(command, false, Duration::ZERO)?.with_late_response();
    let line = command.line.clone();
    let deadline = limit.and_then(|limit| Instant::now().checked_add(limit));
    let too_late = || RuntimeError::ExecDeadline {
        id: id.clone(),
        command: line.clone(),
        after: limit.unwrap_or_default(),
    };
    let operation = service.operation(OPERATION, &id);
    let begun = Instant::now();
    let observe = || service.exec_seconds.observe(begun.elapsed().as_secs_f64());
    let launch = exec::launch(&operation, service, container, &pod, command, streams);
    // Dropping it at the deadline kills the command.
    let launched = within(deadline, launch).await.ok_or_else(too_late)?;
    let (mut running, outputs) = operation.finish(launched).await?;
    let ended = match running.ended().await {
        Some(status) => {
            observe();
            match status {
                Ok(code) => Ok(output(code, outputs.finish().await)),
                Err(error) => Err(error.into()),
            }
        }
        None => collect(running, outputs, deadline, observe).await.ok_or_else(too_late)?,
    };
    match ended {
        Ok(output) => Ok(output),
        Err(cause) => {
            let operation = service.operation(OPERATION, &id);
            operation.finish(Err(StageFailure { stage: "wait", cause })).await?
        }
    }
}

fn output(code: i32, (stdout, stderr): (Vec<u8>, Vec<u8>)) -> Output {
    Output { stdout, stderr, code }
}

/// Reads the output of a command that goes on, until its end. None: the deadline has passed, and it is killed.
async fn collect(
    mut running: Running,
    outputs: Outputs<OwnedFd>,
    deadline: Option<Instant>,
    observe: impl FnOnce(),
) -> Option<Result<Output, Cause>> {
    let mut outputs = match outputs.polled() {
        Ok(outputs) => outputs,
        // Dropping the command kills it.
        Err(cause) => return Some(Err(cause)),
    };
    let Some(status) = outputs.read_until(within(deadline, running.wait())).await else {
        running.kill().await;
        observe();
        return None;
    };
    observe();
    Some(match status {
        Ok(code) => Ok(output(code, outputs.finish().await)),
        Err(error) => Err(error.into()),
    })
}

/// None when it was not done in time and was dropped.
async fn within<T>(deadline: Option<Instant>, work: impl Future<Output = T>) -> Option<T> {
    match deadline {
        Some(deadline) => tokio::time::timeout_at(deadline, work).await.ok(),
        None => Some(work.await),
    }
}

fn streams() -> Result<(Stdio, Outputs<OwnedFd>), Cause> {
    let (stdout, to_stdout) = pipe::unpolled_output()?;
    let (stderr, to_stderr) = pipe::unpolled_output()?;
    let theirs = Stdio { stdin: None, stdout: Some(to_stdout), stderr: Some(to_stderr) };
    Ok((theirs, Outputs::new(stdout, stderr)))
}
