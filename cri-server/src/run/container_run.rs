//! Runs one container: starts it, shows its output, and restarts it by the pod's restart policy.
//!
//! ```text
//!  found (an earlier server started it) --.
//!  create, start, postStart --------------+--> runs --+--> ends by itself --> again, by policy
//!                                                     +--> unhealthy: stopped --> again, unless Never
//!                                                     '--> stop request: stopped
//! ```

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use crisp_proto::runtime::v1::runtime_service_server::RuntimeService as _;
use crisp_proto::runtime::v1::{
    Container as Listed, ContainerState, ContainerStatus, CreateContainerRequest, PodSandboxState,
    PodSandboxStatusRequest, RemoveContainerRequest, StartContainerRequest,
};
use tonic::Request;

use super::container_message::message;
use super::container_mounts::mounts;
use super::context::Context;
use super::cri::{ContainerIdentity, container_config, log_path};
use super::environment::environment;
use super::manifest::{Container, RestartPolicy};
use super::output::{Output, Printer};
use super::restart::BackOff;
use super::stop_request::{LOST, StopRequest, StopRequests};
use super::streams::start_error;
use super::{container_find, container_stop, health, log_rotation, pull};
use crate::rpc_error::refused;

/// The end of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It ended by itself with this code.
    Exited(i32),
    /// It was stopped because a probe or a hook failed.
    Unhealthy(i32),
    /// It was stopped by a stop request.
    Stopped,
}

/// A container of the pod and the rules for running it.
#[derive(Clone)]
pub struct PodContainer {
    pub container: Container,
    /// Its number in the pod, which selects its colour.
    pub index: usize,
    pub policy: RestartPolicy,
    /// The pod's stop requests; sidecars have their own, because they end later.
    pub stop: StopRequests,
}

/// The exit code for a container that cannot be started, as with kubelet.
const START_ERROR: i32 = 128;
/// The exit code for a container that another program removed, and so killed.
const KILLED: i32 = 137;
/// When a pod is stopped, its containers end shortly before the pod is reported as not ready.
const POD_STOP: Duration = Duration::from_secs(1);

/// Runs a container until it has ended and is not restarted.
///
/// # Errors
/// The runtime cannot report the container's status, or cannot stop it.
pub async fn run(context: &Context, member: &PodContainer) -> anyhow::Result<End> {
    let name = &member.container.name;
    let mut found = container_find::newest(&context.server, &context.id, name).await?;
    let first = found.as_ref().map_or(0, container_find::attempt);
    let (mut back_off, mut last_code) = (BackOff::default(), None);
    for attempt in first.. {
        let runs = found.as_ref().is_some_and(|there| there.state() == ContainerState::ContainerRunning);
        if !runs && (member.stop.now().is_any() || context.stop.now().is_any()) {
            return Ok(End::Stopped);
        }
        if context.creates_only && found.is_some() {
            return Ok(End::Stopped);
        }
        let started = Instant::now();
        context.conditions.change(name, |condition| {
            *condition = super::context::Condition { restarts: attempt, ..Default::default() };
        });
        let (id, end) = match found.take() {
            Some(there) => follow_or_start(context, member, there, attempt).await?,
            None => once(context, member, attempt, attempt > first).await?,
        };
        let is_done = !member.container.is_sidecar && end == End::Exited(0);
        context.conditions.change(name, |condition| {
            condition.is_ready = false;
            // A container that finishes before its start is observed has started too.
            condition.is_started |= is_done;
        });
        let code = match end {
            End::Exited(code) | End::Unhealthy(code) => code,
            End::Stopped => return Ok(End::Stopped),
        };
        let is_unhealthy = matches!(end, End::Unhealthy(_));
        // As with docker: if the first start fails, there is no second try.
        let is_hopeless = context.creates_only || context.streams().is_some_and(|streams| !streams.has_run());
        if is_hopeless || !context.restarts(member.policy, code, is_unhealthy) {
            return Ok(End::Exited(code));
        }
        context.conditions.change(name, |condition| condition.is_delayed = true);
        // In a pod that was stopped or lost no start can succeed: the exit code is that of the last
        // successful start.
        if !is_ready_for_a_while(context).await {
            context.stop.stop_with(LOST);
            return Ok(End::Exited(if id.is_some() { code } else { last_code.unwrap_or(code) }));
        }
        last_code = Some(code);
        if delay(context, member, &mut back_off, started.elapsed()).await == Delay::Stopped {
            return Ok(End::Stopped);
        }
        if code != 0 {
            context.count_failure().await;
        }
        // Until now the container told people and a starting server its attempt.
        if let Some(id) = id {
            remove(context, name, id).await;
        }
    }
    bail!("{name} was started more often than can be counted")
}

/// The first round after a start of the server.
async fn follow_or_start(
    context: &Context,
    member: &PodContainer,
    found: Listed,
    attempt: u32,
) -> anyhow::Result<(Option<String>, End)> {
    if found.state() != ContainerState::ContainerCreated {
        let end = follow(context, member, &found.id, attempt, false).await?;
        return Ok((Some(found.id), end));
    }
    // An earlier server ended between the creation and the start.
    remove(context, &member.container.name, found.id).await;
    once(context, member, attempt, false).await
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Delay {
    Over,
    Stopped,
}

/// Waits before the next start, longer each time.
async fn delay(context: &Context, member: &PodContainer, back_off: &mut BackOff, ran: Duration) -> Delay {
    let (name, wait) = (&member.container.name, back_off.wait(ran));
    if !wait.is_zero() {
        let seconds = wait.as_secs();
        context.report.emit(format_args!("{name} is started again in {seconds} seconds"));
    }
    tokio::select! {
        biased;
        _ = member.stop.wait_for(StopRequest::is_any) => return Delay::Stopped,
        // A client has started it: as with docker, its delays begin anew.
        () = context.conditions.delay_ended(name) => *back_off = BackOff::default(),
        () = tokio::time::sleep(wait) => {}
    }
    Delay::Over
}

/// Removes a container that has ended. If that fails, it is removed with its pod.
async fn remove(context: &Context, name: &str, id: String) {
    let request = RemoveContainerRequest { container_id: id };
    if let Err(status) = context.server.runtime.remove_container(Request::new(request)).await {
        context.report.emit(format_args!("{name} has ended and cannot be removed: {:#}", refused(status)));
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

/// The image that was pulled for the pod's start; it may be gone at a later start, or a newer one may exist.
async fn images(
    context: &Context,
    container: &Container,
    is_restart: bool,
) -> anyhow::Result<BTreeMap<String, String>> {
    if !is_restart && context.images.contains_key(&container.image) {
        return Ok(context.images.clone());
    }
    let request = pull::Pulls {
        pod: &context.pod,
        containers: &[container],
        objects: &context.objects,
        report: &context.report,
        bars: context.screen.as_ref().and_then(|screen| screen.bars.as_ref()),
    };
    pull::all(&context.server.images, &request).await
}

/// From create to exit. The id is set if the container could be created.
async fn once(
    context: &Context,
    member: &PodContainer,
    attempt: u32,
    is_restart: bool,
) -> anyhow::Result<(Option<String>, End)> {
    let container = &member.container;
    let failed = |reason: &dyn std::fmt::Display| {
        context.report.emit(format_args!("{} cannot be started: {reason}", container.name));
        End::Exited(context.streams().map_or(START_ERROR, |_| start_error(&reason.to_string())))
    };
    let images = tokio::select! {
        biased;
        _ = member.stop.wait_for(StopRequest::is_any) => return Ok((None, End::Stopped)),
        images = images(context, container, is_restart) => images,
    };
    let env = environment(&context.pod, container, &context.objects, &context.fields);
    let made = match images {
        Ok(images) => mounts(context, container, &env, &images).await.map(|mounts| (images, mounts)),
        Err(error) => Err(error),
    };
    let (images, mounts) = match made {
        Ok(made) => made,
        Err(error) => return Ok((None, failed(&format_args!("{error:#}")))),
    };
    let image_id = images.get(&container.image).map_or("", String::as_str);
    let identity = ContainerIdentity { pod_uid: &context.uid, attempt, image_id, env: &env, mounts };
    let create = CreateContainerRequest {
        pod_sandbox_id: context.id.clone(),
        config: Some(container_config(&context.pod, container, identity)),
        sandbox_config: Some(context.sandbox.clone()),
    };
    let runtime = &context.server.runtime;
    let id = match runtime.create_container(Request::new(create)).await {
        Ok(reply) => reply.into_inner().container_id,
        Err(status) => return Ok((None, failed(&status.message()))),
    };
    if context.creates_only {
        return Ok((Some(id), End::Stopped));
    }
    let start = StartContainerRequest { container_id: id.clone() };
    if let Err(status) = runtime.start_container(Request::new(start)).await {
        return Ok((Some(id), failed(&status.message())));
    }
    context.report.routine(format_args!("{} has started", container.name));
    let end = follow(context, member, &id, attempt, true).await?;
    Ok((Some(id), end))
}

/// Follows a container until it has ended. Its output is shown if there is a screen.
async fn follow(
    context: &Context,
    member: &PodContainer,
    id: &str,
    attempt: u32,
    is_new: bool,
) -> anyhow::Result<End> {
    let log = Path::new(&context.sandbox.log_directory).join(log_path(&member.container.name, attempt));
    let runtime = &context.server.runtime;
    let output = context.screen.as_ref().and_then(|screen| {
        if let Some(streams) = &screen.streams {
            return streams.output(log.clone(), &context.stop);
        }
        let name = format!("{}{}", screen.prefix, member.container.name);
        Some(Output::show(log.clone(), Printer::new(&name, screen.first + member.index, screen.width)))
    });
    let work = async {
        // A server rotates the logs of what it runs by itself.
        if context.screen.is_none() {
            return until_end(context, member, id, &log, is_new).await;
        }
        tokio::select! {
            end = until_end(context, member, id, &log, is_new) => end,
            () = log_rotation::keep_small(runtime, id, &log, output.as_ref()) => {
                bail!("the rotation of logs has no end")
            }
        }
    };
    let end = match context.streams() {
        Some(streams) => streams.beside(runtime, id, &log, work).await,
        None => work.await,
    };
    if let Some(output) = output {
        output.finish(&context.stop).await;
    }
    end
}

async fn until_end(
    context: &Context,
    member: &PodContainer,
    id: &str,
    log: &Path,
    is_new: bool,
) -> anyhow::Result<End> {
    let container = &member.container;
    let cannot = || format!("cannot follow container {}", container.name);
    let runtime = &context.server.runtime;
    let unhealthy = tokio::select! {
        status = context.waiter.ended(runtime, id) => {
            return Ok(End::Exited(exit_code(context, container, log, status.with_context(cannot)?)));
        }
        request = member.stop.wait_for(StopRequest::is_any) => {
            let grace = if request.is_kill() { 0 } else { context.grace_left(context.grace()) };
            container_stop::stop(context, container, id, grace, &member.stop).await?;
            return Ok(End::Stopped);
        }
        unhealthy = health::follow(context, container, id, is_new) => unhealthy,
    };
    context.report.emit(format_args!("{} is stopped: {}", container.name, unhealthy.reason));
    container_stop::stop(context, container, id, unhealthy.grace, &member.stop).await?;
    let status = context.waiter.ended(runtime, id).await.with_context(cannot)?;
    Ok(End::Unhealthy(exit_code(context, container, log, status)))
}

/// The exit code of a container that has ended; a failure is shown.
fn exit_code(context: &Context, container: &Container, log: &Path, status: Option<ContainerStatus>) -> i32 {
    let name = &container.name;
    let Some(status) = status else {
        context.report.emit(format_args!("{name} has been removed"));
        return KILLED;
    };
    let message = message(context, container, log, status.exit_code);
    if status.exit_code != 0 || message.is_some() {
        let reason = match status.reason.as_str() {
            "" | "Error" | "Completed" => String::new(),
            reason => format!(" ({reason})"),
        };
        let message = message.map(|message| format!(": {message}")).unwrap_or_default();
        context
            .report
            .routine(format_args!("{name} has ended with code {}{reason}{message}", status.exit_code));
    }
    status.exit_code
}
