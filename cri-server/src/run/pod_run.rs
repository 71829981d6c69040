//! Runs a pod: images, volumes, the sandbox, init containers, containers; removes all of it at the end.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use crisp_executor::id::PodId;
use crisp_proto::runtime::v1::runtime_service_server::RuntimeService as _;
use crisp_proto::runtime::v1::{PodSandboxConfig, PodSandboxStatusRequest, RunPodSandboxRequest};
use crisp_sandbox::PodKey;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tonic::{Request, Status};

use super::container_run::{self, End};
use super::context::Context;
use super::cri::{PodIdentity, hosts_file, pod_config};
use super::manifest::{Container, Pod, RestartPolicy};
use super::pod_remove::stop_and_remove;
use super::pull;
use super::refused::refused;
use super::stop_request::{StopRequest, requested};
use super::volumes::Volumes;
use super::wait::Waiter;
use crate::server::{Server, layout};

/// Runs the pod to its end and removes it. Returns the exit code.
///
/// # Errors
/// Anything but a container that fails. The pod is removed then, too.
pub async fn run(
    server: Arc<Server>,
    pod: Pod,
    folder: &Path,
    mut stop: watch::Receiver<StopRequest>,
) -> anyhow::Result<u8> {
    let images = tokio::select! {
        images = pull::all(&server.images, &pod) => images?,
        () = requested(&mut stop, |request| request != StopRequest::None) => {
            return Ok(stop.borrow().code().unwrap_or_default());
        }
    };
    let uid = pod.uid.clone().unwrap_or_else(|| PodId::random().short().to_owned());
    let folder = folder.join(&uid);
    let volumes = Volumes::prepare(&pod.volumes, layout::run_volumes(&folder))?;
    let logs = layout::run_logs(&folder);
    let sandbox = pod_config(&pod, &PodIdentity { uid: &uid, log_directory: &logs });
    let id = match start(&server, &sandbox, &mut stop).await {
        Ok(id) => id,
        Err(status) => {
            volumes.remove();
            let failed = || Err(refused(status)).with_context(|| format!("cannot start pod {}", pod.name));
            return stop.borrow().code().map_or_else(failed, Ok);
        }
    };
    let waiter = Waiter::start(&server.runtime).await;
    let hosts = None;
    let mut context = Context { server, pod, uid, id, sandbox, images, volumes, hosts, waiter, stop };
    let code = match write_hosts(&mut context, &folder).await {
        Ok(()) => containers(Arc::new(context)).await,
        Err(error) => Outcome { context: Arc::new(context), code: Err(error) },
    };
    let Outcome { context, code } = code;
    let down = stop_and_remove(&context.server, &context.id).await;
    if down.is_ok() {
        context.volumes.remove();
    }
    match (code, down) {
        (Ok(code), Ok(())) => Ok(code),
        (Ok(_), Err(down)) => Err(down.context("the pod has ended, but cannot be removed")),
        (Err(error), Ok(())) => Err(error),
        (Err(error), Err(down)) => Err(error.context(format!("and the pod cannot be removed: {down:#}"))),
    }
}

/// Starts the pod. A stop request ends that and waits until what was made has been undone.
async fn start(
    server: &Server,
    sandbox: &PodSandboxConfig,
    stop: &mut watch::Receiver<StopRequest>,
) -> Result<String, Status> {
    let request = RunPodSandboxRequest { config: Some(sandbox.clone()), runtime_handler: String::new() };
    let mut started = server.runtime.run_pod_sandbox(Request::new(request));
    let reply = tokio::select! {
        reply = &mut started => reply,
        () = requested(stop, |request| request != StopRequest::None) => {
            let metadata = sandbox.metadata.clone().unwrap_or_default();
            server.pods.cancel_run(&PodKey {
                namespace: metadata.namespace,
                name: metadata.name,
                uid: metadata.uid,
                attempt: metadata.attempt,
            });
            started.await
        }
    };
    Ok(reply?.into_inner().pod_sandbox_id)
}

struct Outcome {
    context: Arc<Context>,
    code: anyhow::Result<u8>,
}

async fn containers(context: Arc<Context>) -> Outcome {
    let code = run_containers(&context).await;
    Outcome { context, code }
}

async fn run_containers(context: &Arc<Context>) -> anyhow::Result<u8> {
    // An init container has to succeed once; the policy Always does not start it again after that.
    let init_policy = match context.pod.restart_policy {
        RestartPolicy::Never => RestartPolicy::Never,
        RestartPolicy::OnFailure | RestartPolicy::Always => RestartPolicy::OnFailure,
    };
    for (index, container) in context.pod.init_containers.iter().enumerate() {
        match container_run::run(context, index, container, init_policy).await? {
            End::Exited(0) => {}
            End::Exited(code) => {
                eprintln!("crisp: init container {} has failed: the pod does not start", container.name);
                return Ok(exit_code(code));
            }
            End::Stopped => return Ok(interrupted(context)),
        }
    }
    let mut tasks = JoinSet::new();
    for (index, container) in context.pod.containers.iter().enumerate() {
        let (context, container): (_, Container) = (Arc::clone(context), container.clone());
        let index = index + context.pod.init_containers.len();
        let policy = context.pod.restart_policy;
        tasks.spawn(async move { container_run::run(&context, index, &container, policy).await });
    }
    let (mut first_failure, mut stopped) = (None, false);
    while let Some(ended) = tasks.join_next().await {
        match ended?? {
            End::Exited(0) => {}
            End::Exited(code) => first_failure = first_failure.or(Some(exit_code(code))),
            End::Stopped => stopped = true,
        }
    }
    Ok(first_failure.unwrap_or(if stopped { interrupted(context) } else { 0 }))
}

fn exit_code(code: i32) -> u8 {
    u8::try_from(code).unwrap_or(255)
}

fn interrupted(context: &Context) -> u8 {
    context.stop.borrow().code().unwrap_or_default()
}

/// Writes a hosts file when the pod has `hostAliases`; without them the runtime writes it.
async fn write_hosts(context: &mut Context, folder: &Path) -> anyhow::Result<()> {
    if context.pod.host_aliases.is_empty() {
        return Ok(());
    }
    let request = PodSandboxStatusRequest { pod_sandbox_id: context.id.clone(), verbose: false };
    let status = context.server.runtime.pod_sandbox_status(Request::new(request)).await.map_err(refused)?;
    let network = status.into_inner().status.and_then(|s| s.network).unwrap_or_default();
    let addresses: Vec<String> = std::iter::once(network.ip)
        .chain(network.additional_ips.into_iter().map(|a| a.ip))
        .filter(|ip| !ip.is_empty())
        .collect();
    let path = layout::run_hosts(folder);
    std::fs::write(&path, hosts_file(&context.pod, &addresses))
        .and_then(|()| {
            use std::os::unix::fs::PermissionsExt as _;
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644))
        })
        .with_context(|| format!("cannot write {}", path.display()))?;
    context.hosts = Some(path);
    Ok(())
}
