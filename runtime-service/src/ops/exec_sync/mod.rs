//! ExecSync: one command in a running container, its output collected within bounds.
//!
//! ```text
//!   reading ends of its pipes ─> read (capped) until its exit
//!   exit ─> a short drain ─> response; deadline ─> kill
//! ```
//!
//! A command with a time limit is a probe: what it leaves behind is killed after its end, as it would be at its
//! deadline. One without a limit is a lifecycle hook or a person's command, and may start daemons: they stay.
//!
//! Most commands are probes that end within milliseconds: their end comes with the response to the start, and what they
//! have written is read then, without polling.

mod output;

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use crisp_sandbox::link::LinkError;
use tokio::time::Instant;

use self::output::Outputs;
use super::exec::leftover::Leftover;
use super::exec::{self, Command, Ended, Running, Stdio, pipe};
use crate::cause::{Cause, StageFailure};
use crate::container::Container;
use crate::error::RuntimeError;
use crate::exec_metrics::{Outcome, Timer};
use crate::service_state::ServiceState;

const OPERATION: &str = "exec";
/// Longer limits count as this one: adding them to the clock would overflow.
const LONGEST: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// The output of a command and its exit code.
#[derive(Debug)]
pub struct Output {
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    pub code: i32,
}

/// Runs `command` and waits for its end. `limit`: None for no time limit. With a limit, no process of the
/// command outlives it for long.
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
    let deadline = limit.map(|limit| Instant::now() + limit.min(LONGEST));
    let too_late = || RuntimeError::ExecDeadline {
        id: id.clone(),
        command: line.clone(),
        after: limit.unwrap_or_default(),
    };
    let operation = service.operation(OPERATION, &id);
    let timer = service.exec_metrics.start();
    let launch = exec::launch(&operation, service, container, &pod, command, streams);
    // Dropping it at the deadline kills the command.
    let Some(launched) = within(deadline, launch).await else {
        timer.end(Outcome::Deadline);
        return Err(too_late());
    };
    let launched = match launched {
        Ok(launched) => Ok((launched, timer)),
        Err(failure) => {
            timer.end(Outcome::Failed);
            Err(failure)
        }
    };
    let ((mut running, outputs), timer) = operation.finish(launched).await?;
    let ended = match running.ended().await {
        Some(end) => {
            timer.end(Outcome::of(&end));
            output(end, deadline, outputs.finish()).await
        }
        None => collect(running, outputs, deadline, timer).await.ok_or_else(too_late)?,
    };
    match ended {
        Ok(output) => Ok(output),
        Err(cause) => {
            let operation = service.operation(OPERATION, &id);
            operation.finish(Err(StageFailure { stage: "wait", cause })).await?
        }
    }
}

/// The output and the exit code. After that, or when dropped, kills what a command with a limit left behind.
async fn output(
    end: Result<Ended, LinkError>,
    deadline: Option<Instant>,
    output: impl Future<Output = (Vec<u8>, Vec<u8>)>,
) -> Result<Output, Cause> {
    let Ended { code, leftover } = end?;
    let mut leftover = Some(leftover);
    if deadline.is_none() {
        leftover.take().into_iter().for_each(Leftover::stay);
    }
    let (stdout, stderr) = output.await;
    drop(leftover);
    Ok(Output { stdout, stderr, code })
}

/// Reads the output of a command that goes on, until its end. None: the deadline has passed, and it is killed.
async fn collect(
    mut running: Running,
    outputs: Outputs<OwnedFd>,
    deadline: Option<Instant>,
    timer: Timer<'_>,
) -> Option<Result<Output, Cause>> {
    let mut outputs = match outputs.polled() {
        Ok(outputs) => outputs,
        // Dropping the command kills it.
        Err(cause) => {
            timer.end(Outcome::Failed);
            return Some(Err(cause));
        }
    };
    let Some(end) = outputs.read_until(within(deadline, running.end())).await else {
        timer.end(Outcome::Deadline);
        running.kill().await;
        return None;
    };
    timer.end(Outcome::of(&end));
    Some(output(end, deadline, outputs.finish()).await)
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
