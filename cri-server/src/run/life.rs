//! A pod's whole life: images, volumes, the pod, init containers, containers, and all of it away again.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use crisp_executor::id::PodId;
use crisp_proto::runtime::v1::runtime_service_server::RuntimeService as _;
use crisp_proto::runtime::v1::{
    PodSandboxConfig, PodSandboxStatusRequest, RemovePodSandboxRequest, RunPodSandboxRequest,
    StopPodSandboxRequest,
};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tonic::Request;

use super::command::Wish;
use super::cri::{PodFacts, hosts_file, pod_config};
use super::manifest::{Container, Pod, RestartPolicy};
use super::supervise::{self, End};
use super::volumes::Volumes;
use super::{pull, wait::Waiter};
use crate::server::Server;

/// What all containers of the pod share.
pub struct Context {
    pub server: Arc<Server>,
    pub pod: Pod,
    pub uid: String,
    pub id: String,
    pub sandbox: PodSandboxConfig,
    pub images: BTreeMap<String, String>,
    pub volumes: Volumes,
    pub hosts: Option<PathBuf>,
    pub waiter: Waiter,
    pub wish: watch::Receiver<Wish>,
}

/// Runs the pod to its end and takes it down. Returns the exit code.
///
/// # Errors
/// Anything but a container that fails. The pod is taken down then, too.
pub async fn run(
    server: Arc<Server>,
    pod: Pod,
    folder: &Path,
    mut wish: watch::Receiver<Wish>,
) -> anyhow::Result<u8> {
    let images = tokio::select! {
        images = pull::all(&server.images, &pod) => images?,
        code = told_to_end(&mut wish) => return Ok(code),
    };
    let uid = pod.uid.clone().unwrap_or_else(|| PodId::random().short().to_owned());
    let folder = folder.join(&uid);
    let volumes = Volumes::prepare(&pod.volumes, folder.join("volumes"))?;
    let logs = folder.join("logs");
    let sandbox = pod_config(&pod, &PodFacts { uid: &uid, log_directory: &logs });
    let request = RunPodSandboxRequest { config: Some(sandbox.clone()), runtime_handler: String::new() };
    let id = match server.runtime.run_pod_sandbox(Request::new(request)).await {
        Ok(reply) => reply.into_inner().pod_sandbox_id,
        Err(status) => {
            volumes.remove();
            return Err(refused(status)).with_context(|| format!("cannot start pod {}", pod.name));
        }
    };
    let waiter = Waiter::start(&server.runtime).await;
    let hosts = None;
    let mut context = Context { server, pod, uid, id, sandbox, images, volumes, hosts, waiter, wish };
    let code = match write_hosts(&mut context, &folder).await {
        Ok(()) => containers(Arc::new(context)).await,
        Err(error) => Outcome { context: Arc::new(context), code: Err(error) },
    };
    let Outcome { context, code } = code;
    let down = take_down(&context.server, &context.id).await;
    context.volumes.remove();
    match (code, down) {
        (Ok(code), Ok(())) => Ok(code),
        (Ok(_), Err(down)) => Err(down.context("the pod has ended, but cannot be taken down")),
        (Err(error), Ok(())) => Err(error),
        (Err(error), Err(down)) => Err(error.context(format!("and the pod cannot be taken down: {down:#}"))),
    }
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
    // An init container has to succeed once, whatever happens to the others after their end.
    let init_policy = match context.pod.restart_policy {
        RestartPolicy::Never => RestartPolicy::Never,
        RestartPolicy::OnFailure | RestartPolicy::Always => RestartPolicy::OnFailure,
    };
    for (index, container) in context.pod.init_containers.iter().enumerate() {
        match supervise::supervise(context, index, container, init_policy).await? {
            End::Itself(0) => {}
            End::Itself(code) => {
                eprintln!("crisp: init container {} has failed: the pod does not start", container.name);
                return Ok(exit_code(code));
            }
            End::Told => return Ok(interrupted(context)),
        }
    }
    let mut tasks = JoinSet::new();
    for (index, container) in context.pod.containers.iter().enumerate() {
        let (context, container): (_, Container) = (Arc::clone(context), container.clone());
        let index = index + context.pod.init_containers.len();
        let policy = context.pod.restart_policy;
        tasks.spawn(async move { supervise::supervise(&context, index, &container, policy).await });
    }
    let (mut first_failure, mut told) = (None, false);
    while let Some(ended) = tasks.join_next().await {
        match ended?? {
            End::Itself(0) => {}
            End::Itself(code) => first_failure = first_failure.or(Some(exit_code(code))),
            End::Told => told = true,
        }
    }
    Ok(first_failure.unwrap_or(if told { interrupted(context) } else { 0 }))
}

fn exit_code(code: i32) -> u8 {
    u8::try_from(code).unwrap_or(255)
}

fn interrupted(context: &Context) -> u8 {
    match *context.wish.borrow() {
        Wish::Run => 0,
        Wish::End { code } | Wish::Kill { code } => code,
    }
}

async fn told_to_end(wish: &mut watch::Receiver<Wish>) -> u8 {
    match wish.wait_for(|wish| *wish != Wish::Run).await.map(|wish| *wish) {
        Ok(Wish::End { code } | Wish::Kill { code }) => code,
        // The one who tells has gone: nobody will.
        Ok(Wish::Run) | Err(_) => std::future::pending().await,
    }
}

/// A hosts file of our own is only needed for `hostAliases`.
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
    let path = folder.join("hosts");
    std::fs::write(&path, hosts_file(&context.pod, &addresses))
        .and_then(|()| {
            use std::os::unix::fs::PermissionsExt as _;
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644))
        })
        .with_context(|| format!("cannot write {}", path.display()))?;
    context.hosts = Some(path);
    Ok(())
}

/// Stops and removes a pod with all that is in it.
///
/// # Errors
/// What the runtime says.
pub async fn take_down(server: &Server, id: &str) -> anyhow::Result<()> {
    let stop = StopPodSandboxRequest { pod_sandbox_id: id.to_owned() };
    server.runtime.stop_pod_sandbox(Request::new(stop)).await.map_err(refused)?;
    let remove = RemovePodSandboxRequest { pod_sandbox_id: id.to_owned() };
    server.runtime.remove_pod_sandbox(Request::new(remove)).await.map_err(refused)?;
    Ok(())
}

/// What a service said no to; its message says it all.
pub fn refused(status: tonic::Status) -> anyhow::Error {
    anyhow::anyhow!("{}", status.message())
}
