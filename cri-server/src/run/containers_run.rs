//! Runs the containers of a pod in their order: init containers one after the other with sidecars beside
//! them, then the others; sidecars end last, in reverse order.

use std::sync::Arc;
use std::time::Instant;

use tokio::task::{JoinHandle, JoinSet};

use super::container_find;
use super::container_run::{self, End, PodContainer};
use super::context::Context;
use super::manifest::RestartPolicy;
use super::run_status::{RunStatus, change};
use super::stop_request::{StopRequest, StopRequests};

/// Runs all containers until they have ended. Returns the pod's exit code.
///
/// # Errors
/// Any failure except that of a container.
pub async fn run(context: &Arc<Context>) -> anyhow::Result<u8> {
    let noted = Arc::clone(context);
    // The pod's grace period begins with the first stop request.
    let clock = tokio::spawn(async move {
        noted.stop.wait_for(StopRequest::is_any).await;
        let _ = noted.end_began.set(Instant::now());
    });
    let mut sidecars = Vec::new();
    let code = run_in_order(context, &mut sidecars).await;
    let _ = context.end_began.set(Instant::now());
    clock.abort();
    let mut failed = None;
    for sidecar in sidecars.into_iter().rev() {
        if let Err(error) = sidecar.stop(context).await {
            failed = failed.or(Some(error));
        }
    }
    match (code, failed) {
        // The others have ended because of this; the sidecar ends with its sandbox.
        (Ok(code), Some(error)) => {
            context.report.emit(format_args!("{error:#}"));
            Ok(code)
        }
        (Err(error), Some(other)) => Err(error.context(format!("and a sidecar: {other:#}"))),
        (code, None) => code,
    }
}

/// A running sidecar.
struct Sidecar {
    stop: StopRequests,
    task: JoinHandle<anyhow::Result<End>>,
}

impl Sidecar {
    async fn stop(self, context: &Context) -> anyhow::Result<()> {
        let code = context.stop.now().code().unwrap_or_default();
        self.stop.signal(code);
        let mut task = self.task;
        let ended = tokio::select! {
            ended = &mut task => ended,
            _ = context.stop.wait_for(StopRequest::is_kill) => {
                self.stop.signal(code);
                task.await
            }
        };
        ended?.map(drop)
    }
}

async fn run_in_order(context: &Arc<Context>, sidecars: &mut Vec<Sidecar>) -> anyhow::Result<u8> {
    // After a server's restart: other containers start only when the init containers have succeeded.
    let is_initialised = is_any_found(context).await?;
    for (index, container) in context.pod.init_containers.iter().enumerate() {
        let member = PodContainer {
            container: container.clone(),
            index,
            policy: init_policy(context, container.is_sidecar),
            stop: if container.is_sidecar { StopRequests::new() } else { context.stop.clone() },
        };
        if container.is_sidecar {
            let name = container.name.clone();
            sidecars.push(start_sidecar(context, member));
            if is_initialised {
                // The containers already run, and must be followed meanwhile.
                continue;
            }
            tokio::select! {
                () = context.conditions.started(&name) => {}
                _ = context.stop.wait_for(StopRequest::is_any) => return Ok(interrupted(context)),
            }
        } else if !is_initialised {
            match container_run::run(context, &member).await? {
                End::Exited(0) => {}
                End::Exited(code) | End::Unhealthy(code) => {
                    let name = &container.name;
                    let failed = format_args!("init container {name} has failed: the pod does not start");
                    context.report.emit(failed);
                    return Ok(exit_code(code));
                }
                End::Stopped => return Ok(interrupted(context)),
            }
        }
    }
    run_beside(context).await
}

/// An init container must succeed only once; the policy Always does not restart it after that. A sidecar is
/// always restarted.
fn init_policy(context: &Context, is_sidecar: bool) -> RestartPolicy {
    match context.pod.restart_policy {
        _ if is_sidecar => RestartPolicy::Always,
        RestartPolicy::Never => RestartPolicy::Never,
        RestartPolicy::OnFailure | RestartPolicy::Always => RestartPolicy::OnFailure,
    }
}

/// If a sidecar ends before the other containers, they end too: the runtime has failed, the sandbox is gone,
/// or a Job's limit is reached.
fn start_sidecar(context: &Arc<Context>, member: PodContainer) -> Sidecar {
    let stop = member.stop.clone();
    let context = Arc::clone(context);
    let run = async move {
        let end = container_run::run(&context, &member).await;
        if !member.stop.now().is_any() && !context.stop.now().is_any() {
            context.report.emit(format_args!("stopping the pod after its sidecar {}", member.container.name));
            context.stop.after_failure();
        }
        end
    };
    Sidecar { stop, task: tokio::spawn(run) }
}

async fn is_any_found(context: &Context) -> anyhow::Result<bool> {
    for container in &context.pod.containers {
        if container_find::newest(&context.server, &context.id, &container.name).await?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

async fn run_beside(context: &Arc<Context>) -> anyhow::Result<u8> {
    let mut tasks = JoinSet::new();
    let succeeded = &context.status.get().succeeded;
    for (index, container) in context.pod.containers.iter().enumerate() {
        if succeeded.contains(&container.name) {
            continue;
        }
        let member = PodContainer {
            container: container.clone(),
            index: index + context.pod.init_containers.len(),
            policy: context.pod.restart_policy,
            stop: context.stop.clone(),
        };
        let context = Arc::clone(context);
        tasks.spawn(
            async move { (member.container.name.clone(), container_run::run(&context, &member).await) },
        );
    }
    let mut ends = Ends::default();
    while let Some(ended) = tasks.join_next().await {
        let ended = match ended {
            Ok((name, end)) => {
                has_ended(context, name, &end).await;
                end
            }
            Err(panic) => Err(panic.into()),
        };
        if ended.is_err() {
            // The pod ends with it; the other containers get their grace period.
            context.report.emit("stopping the pod after an error");
            context.stop.after_failure();
        }
        ends.add(context, ended);
    }
    ends.code(context.stop.now())
}

/// The policy OnFailure applies to each container, also in the pod's next sandbox.
async fn has_ended(context: &Context, name: String, end: &anyhow::Result<End>) {
    match end {
        _ if context.pod.restart_policy != RestartPolicy::OnFailure => {}
        Ok(End::Exited(0)) => {
            let add = move |status: &mut RunStatus| {
                status.succeeded.insert(name.clone());
            };
            if let Err(error) = change(&context.status, add).await {
                context.report.emit(format_args!("{error:#}"));
            }
        }
        // It was not restarted: the pod has failed as often as its Job allows.
        Ok(End::Exited(_) | End::Unhealthy(_)) => context.stop.after_failure(),
        Ok(End::Stopped) | Err(_) => {}
    }
}

/// The ends of the containers, the first of each kind.
#[derive(Default)]
struct Ends {
    failure: Option<u8>,
    stopped: bool,
    error: Option<anyhow::Error>,
}

impl Ends {
    fn add(&mut self, context: &Context, end: anyhow::Result<End>) {
        match end {
            Err(error) if self.error.is_some() => context.report.emit(format_args!("{error:#}")),
            end => self.note(end),
        }
    }

    fn note(&mut self, end: anyhow::Result<End>) {
        match end {
            Ok(End::Exited(0) | End::Unhealthy(0)) => {}
            Ok(End::Exited(code) | End::Unhealthy(code)) => {
                self.failure = self.failure.or(Some(exit_code(code)))
            }
            Ok(End::Stopped) => self.stopped = true,
            Err(error) => self.error = self.error.take().or(Some(error)),
        }
    }

    fn code(self, request: StopRequest) -> anyhow::Result<u8> {
        let interrupted = if self.stopped { request.code() } else { None };
        self.error.map_or_else(|| Ok(self.failure.or(interrupted).unwrap_or_default()), Err)
    }
}

fn exit_code(code: i32) -> u8 {
    u8::try_from(code).unwrap_or(255)
}

fn interrupted(context: &Context) -> u8 {
    context.stop.now().code().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_failure_decides_and_an_error_outweighs_it() {
        let ends = |all: Vec<anyhow::Result<End>>| {
            let mut ends = Ends::default();
            all.into_iter().for_each(|end| ends.note(end));
            ends.code(StopRequest::Stop { code: 130 }).map_err(|error| error.to_string())
        };
        assert_eq!(ends(vec![Ok(End::Exited(0)), Ok(End::Exited(0))]), Ok(0));
        assert_eq!(ends(vec![Ok(End::Stopped), Ok(End::Exited(0))]), Ok(130));
        assert_eq!(ends(vec![Ok(End::Stopped), Ok(End::Exited(7)), Ok(End::Exited(8))]), Ok(7));
        let errors = ["first", "second"].map(|text| Err(anyhow::anyhow!(text)));
        assert_eq!(ends([Ok(End::Exited(7))].into_iter().chain(errors).collect()), Err("first".to_owned()));
    }
}
