//! Runs one container: starts it, shows its output, starts it again by the pod's restart policy.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use crisp_proto::runtime::v1::image_service_server::ImageService as _;
use crisp_proto::runtime::v1::runtime_service_server::RuntimeService as _;
use crisp_proto::runtime::v1::{
    ContainerStatus, CreateContainerRequest, ImageSpec, ImageStatusRequest, RemoveContainerRequest,
    StartContainerRequest, StopContainerRequest,
};
use tokio::sync::watch;
use tonic::Request;

use super::context::Context;
use super::cri::{ContainerIdentity, container_config};
use super::manifest::{Container, RestartPolicy};
use super::output::{self, Printer};
use super::refused::refused;
use super::restart::{BackOff, again};
use super::stop_request::{StopRequest, requested};

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

/// Runs a container until it has ended for good.
///
/// # Errors
/// The runtime does not know it any more, or the manifest demands what the image does not have.
pub async fn run(
    context: &Context,
    index: usize,
    container: &Container,
    policy: RestartPolicy,
) -> anyhow::Result<End> {
    check_user(context, container).await?;
    let mut back_off = BackOff::default();
    let mut stop_requests = context.stop.clone();
    for attempt in 0.. {
        let started = Instant::now();
        let (id, end) = once(context, index, container, attempt).await?;
        let End::Exited(code) = end else { return Ok(End::Stopped) };
        if !again(policy, code) {
            return Ok(End::Exited(code));
        }
        if let Some(id) = id {
            let request = RemoveContainerRequest { container_id: id };
            context.server.runtime.remove_container(Request::new(request)).await.map_err(refused)?;
        }
        let wait = back_off.wait(started.elapsed());
        if !wait.is_zero() {
            eprintln!("crisp: {} is started again in {} seconds", container.name, wait.as_secs());
        }
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = requested(&mut stop_requests, |request| request != StopRequest::None) => return Ok(End::Stopped),
        }
    }
    bail!("{} was started more often than can be counted", container.name)
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
        eprintln!("crisp: {} cannot be started: {}", container.name, status.message());
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
    let (over, ended) = watch::channel(false);
    let shown = tokio::spawn(output::follow(log, Printer::new(&container.name, index, width), ended));
    let end = until_end(context, container, &id).await;
    let _ = over.send(true);
    shown.await?;
    Ok((Some(id), end?))
}

async fn until_end(context: &Context, container: &Container, id: &str) -> anyhow::Result<End> {
    let runtime = &context.server.runtime;
    let mut stop_requests = context.stop.clone();
    let ended = tokio::select! {
        status = context.waiter.ended(runtime, id) => Some(status?),
        () = requested(&mut stop_requests, |request| request != StopRequest::None) => None,
    };
    if let Some(status) = ended {
        print_failure(container, &status);
        return Ok(End::Exited(status.exit_code));
    }
    let grace =
        if matches!(*stop_requests.borrow(), StopRequest::Kill { .. }) { 0 } else { context.pod.grace };
    tokio::select! {
        stopped = stop(context, id, grace) => stopped?,
        // The second signal does not wait for the grace period.
        () = requested(&mut stop_requests, |request| matches!(request, StopRequest::Kill { .. })) => stop(context, id, 0).await?,
    }
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

fn print_failure(container: &Container, status: &ContainerStatus) {
    if status.exit_code != 0 {
        let reason = match status.reason.as_str() {
            "" | "Error" => String::new(),
            reason => format!(" ({reason})"),
        };
        eprintln!("crisp: {} has ended with code {}{reason}", container.name, status.exit_code);
    }
}

/// `runAsNonRoot`: an image whose user is root, or cannot be told from root, is not started.
async fn check_user(context: &Context, container: &Container) -> anyhow::Result<()> {
    let (own, common) = (&container.security, &context.pod.security);
    if !own.run_as_non_root.unwrap_or(common.run_as_non_root) {
        return Ok(());
    }
    let name = &container.name;
    match own.run_as_user.or(common.run_as_user) {
        Some(0) => bail!("container {name}: runAsNonRoot and runAsUser 0 exclude each other"),
        Some(_) => return Ok(()),
        None => {}
    }
    let image = context.images.get(&container.image).cloned().unwrap_or_default();
    let request =
        ImageStatusRequest { image: Some(ImageSpec { image, ..ImageSpec::default() }), verbose: false };
    let reply = context.server.images.image_status(Request::new(request)).await.map_err(refused)?;
    let image = reply.into_inner().image.unwrap_or_default();
    match (image.uid.map(|uid| uid.value), image.username.as_str()) {
        (Some(uid), _) if uid != 0 => Ok(()),
        (None, user) if !user.is_empty() && user != "root" => {
            bail!(
                "container {name}: runAsNonRoot, but the image names its user {user} without a number, which may be root: set runAsUser"
            )
        }
        _ => bail!("container {name}: runAsNonRoot, but the image runs as root: set runAsUser"),
    }
}
