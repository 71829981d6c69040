//! Runs one container: starts it, shows its output, starts it again by the pod's restart policy.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use crisp_proto::runtime::v1::runtime_service_server::RuntimeService as _;
use crisp_proto::runtime::v1::{
    ContainerStatus, CreateContainerRequest, PodSandboxState, PodSandboxStatusRequest,
    RemoveContainerRequest, StartContainerRequest, StopContainerRequest,
};
use tonic::Request;

use super::context::Context;
use super::cri::{ContainerIdentity, container_config};
use super::log_rotation;
use super::manifest::{Container, RestartPolicy};
use super::notice::notice;
use super::output::{Output, Printer};
use super::restart::{BackOff, again};
use super::stop_request::StopRequest;
use crate::refused::refused;

/// How a container ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// By itself, with this code.
    Exited(i32),
    /// By a stop request.
    Stopped,
}

/// The code for a container that cannot be started, the same as a kubelet gives.
const START_ERROR: i32 = 128;
/// The code for a container that another program removed: it was killed before.
const KILLED: i32 = 137;
/// A pod that is being stopped loses its containers before it is not ready any more.
const POD_STOP: Duration = Duration::from_secs(1);

/// Runs a container until it has ended for good.
///
/// # Errors
/// The runtime cannot say how it is, or cannot stop it.
pub async fn run(
    context: &Context,
    index: usize,
    container: &Container,
    policy: RestartPolicy,
) -> anyhow::Result<End> {
    let (mut back_off, mut last_code) = (BackOff::default(), None);
    for attempt in 0.. {
        let started = Instant::now();
        let (id, end) = once(context, index, container, attempt).await?;
        let End::Exited(code) = end else { return Ok(End::Stopped) };
        if !again(policy, code) {
            return Ok(End::Exited(code));
        }
        // In a pod that was stopped or lost no start can succeed: the code is that of the last one that did.
        if !is_ready_for_a_while(context).await {
            return Ok(End::Exited(if id.is_some() { code } else { last_code.unwrap_or(code) }));
        }
        last_code = Some(code);
        if let Some(id) = id {
            remove(context, container, id).await;
        }
        let wait = back_off.wait(started.elapsed());
        if !wait.is_zero() {
            let (name, seconds) = (&container.name, wait.as_secs());
            notice(format_args!("{name} is started again in {seconds} seconds"));
        }
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            _ = context.stop.wait_for(StopRequest::is_any) => return Ok(End::Stopped),
        }
    }
    bail!("{} was started more often than can be counted", container.name)
}

/// Removes a container that has ended. One that stays is removed with its pod.
async fn remove(context: &Context, container: &Container, id: String) {
    let request = RemoveContainerRequest { container_id: id };
    if let Err(status) = context.server.runtime.remove_container(Request::new(request)).await {
        let name = &container.name;
        notice(format_args!("{name} has ended and cannot be removed: {:#}", refused(status)));
    }
}

async fn is_ready_for_a_while(context: &Context) -> bool {
    let end = Instant::now() + POD_STOP;
    loop {
        let request = PodSandboxStatusRequest { pod_sandbox_id: context.id.clone(), verbose: false };
        let status = context.server.runtime.pod_sandbox_status(Request::new(request)).await;
        let state = status.ok().and_then(|reply| reply.into_inner().status).map(|status| status.state());
        if state != Some(PodSandboxState::SandboxReady) {
            return false;
        }
        if Instant::now() >= end {
            return true;
        }
        tokio::time::sleep(POD_STOP / 20).await;
    }
}

/// From create to exit. The id is there if the container could be created.
async fn once(
    context: &Context,
    index: usize,
    container: &Container,
    attempt: u32,
) -> anyhow::Result<(Option<String>, End)> {
    let identity = ContainerIdentity {
        pod_uid: &context.uid,
        attempt,
        image_id: context.images.get(&container.image).map_or("", String::as_str),
        volumes: &context.volumes,
        hosts_file: context.hosts.as_deref(),
    };
    let config = container_config(&context.pod, container, &identity);
    let log = Path::new(&context.sandbox.log_directory).join(&config.log_path);
    let create = CreateContainerRequest {
        pod_sandbox_id: context.id.clone(),
        config: Some(config),
        sandbox_config: Some(context.sandbox.clone()),
    };
    let runtime = &context.server.runtime;
    let failed = |status: tonic::Status| {
        notice(format_args!("{} cannot be started: {}", container.name, status.message()));
        End::Exited(START_ERROR)
    };
    let id = match runtime.create_container(Request::new(create)).await {
        Ok(reply) => reply.into_inner().container_id,
        Err(status) => return Ok((None, failed(status))),
    };
    let start = StartContainerRequest { container_id: id.clone() };
    if let Err(status) = runtime.start_container(Request::new(start)).await {
        return Ok((Some(id), failed(status)));
    }
    let all = context.pod.init_containers.iter().chain(&context.pod.containers);
    let width = all.map(|c| c.name.len()).max().unwrap_or(0);
    let output = Output::show(log.clone(), Printer::new(&container.name, index, width));
    let end = tokio::select! {
        end = until_end(context, container, &id) => end,
        () = log_rotation::keep_small(runtime, &id, &log, &output) => bail!("the rotation of logs has no end"),
    };
    output.finish(&context.stop).await;
    Ok((Some(id), end?))
}

async fn until_end(context: &Context, container: &Container, id: &str) -> anyhow::Result<End> {
    let runtime = &context.server.runtime;
    let request = tokio::select! {
        status = context.waiter.ended(runtime, id) => {
            let status = status.with_context(|| format!("cannot follow container {}", container.name))?;
            return Ok(End::Exited(exit_code(container, status)));
        }
        request = context.stop.wait_for(StopRequest::is_any) => request,
    };
    let grace = if request.is_kill() { 0 } else { context.pod.grace };
    let stopped = tokio::select! {
        stopped = stop(context, id, grace) => stopped,
        // The second signal does not wait for the grace period.
        _ = context.stop.wait_for(StopRequest::is_kill), if grace > 0 => stop(context, id, 0).await,
    };
    stopped.with_context(|| format!("cannot stop container {}", container.name))?;
    Ok(End::Stopped)
}

async fn stop(context: &Context, id: &str, grace: u32) -> anyhow::Result<()> {
    let request = StopContainerRequest { container_id: id.to_owned(), timeout: grace.into() };
    let stopped = context.server.runtime.stop_container(Request::new(request));
    // The runtime has a deadline of its own for the kill; this one is for a runtime that hangs.
    let limit = Duration::from_secs(u64::from(grace) + 60);
    tokio::time::timeout(limit, stopped).await.context("stopping takes too long")?.map_err(refused)?;
    Ok(())
}

/// The code of a container that has ended; a failure is shown.
fn exit_code(container: &Container, status: Option<ContainerStatus>) -> i32 {
    let name = &container.name;
    let Some(status) = status else {
        notice(format_args!("{name} has been removed"));
        return KILLED;
    };
    if status.exit_code != 0 {
        let reason = match status.reason.as_str() {
            "" | "Error" => String::new(),
            reason => format!(" ({reason})"),
        };
        notice(format_args!("{name} has ended with code {}{reason}", status.exit_code));
    }
    status.exit_code
}
