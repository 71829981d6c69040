//! Stops a container as kubelet does: the preStop hook, the stop signal, and SIGKILL at the end of the grace
//! period.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use crisp_proto::runtime::v1::StopContainerRequest;
use crisp_proto::runtime::v1::runtime_service_server::RuntimeService as _;
use tonic::Request;

use super::action::{Purpose, act};
use super::context::Context;
use super::manifest::Container;
use super::stop_request::{StopRequest, StopRequests};
use crate::rpc_error::refused;

/// Minimal seconds for the container after a hook that used up the grace period.
const LEAST: u32 = 2;

/// Stops the container within `grace` seconds, or at once when `stop` becomes a kill request.
///
/// # Errors
/// The runtime's error, or the runtime does not answer.
pub async fn stop(
    context: &Context,
    container: &Container,
    id: &str,
    grace: u32,
    stop: &StopRequests,
) -> anyhow::Result<()> {
    let gently = async {
        let begun = Instant::now();
        if let Some(hook) = container.lifecycle.pre_stop.as_ref().filter(|_| grace > 0) {
            let limit = Duration::from_secs(grace.into());
            let acted = tokio::select! {
                acted = act(context, container, id, hook, Purpose::Hook, Some(limit)) => acted,
                _ = context.waiter.ended(&context.server.runtime, id) => Ok(()),
            };
            if let Err(error) = acted {
                context.report.emit(format_args!("{}: preStop: {error}", container.name));
            }
        }
        let passed = u32::try_from(begun.elapsed().as_secs()).unwrap_or(grace);
        signal(context, id, grace.saturating_sub(passed).max(LEAST.min(grace))).await
    };
    let stopped = tokio::select! {
        stopped = gently => stopped,
        // A second signal ends the grace period.
        _ = stop.wait_for(StopRequest::is_kill), if grace > 0 => signal(context, id, 0).await,
    };
    stopped.with_context(|| format!("cannot stop container {}", container.name))
}

async fn signal(context: &Context, id: &str, grace: u32) -> anyhow::Result<()> {
    let request = StopContainerRequest { container_id: id.to_owned(), timeout: grace.into() };
    let stopped = context.server.runtime.stop_container(Request::new(request));
    // The runtime has its own deadline for the kill; this one is for a runtime that hangs.
    let limit = Duration::from_secs(u64::from(grace) + 60);
    tokio::time::timeout(limit, stopped).await.context("stopping takes too long")?.map_err(refused)?;
    Ok(())
}
