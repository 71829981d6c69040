//! Runs a pod: images, volumes, the sandbox, init containers, containers; removes all of it at the end.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use crisp_executor::id::PodId;
use crisp_proto::runtime::v1::runtime_service_server::RuntimeService as _;
use crisp_proto::runtime::v1::{PodSandboxConfig, RunPodSandboxRequest};
use crisp_sandbox::PodKey;
use tokio::task::JoinSet;
use tonic::{Request, Status};

use super::container_run::{self, End};
use super::context::Context;
use super::cri::{PodIdentity, hosts_file, pod_config};
use super::manifest::{Container, Pod, RestartPolicy};
use super::notice::notice;
use super::pod_remove::stop_and_remove;
use super::stop_request::{StopRequest, StopRequests};
use super::volumes::Volumes;
use super::wait::Waiter;
use super::{pull, run_as_non_root};
use crate::refused::refused;
use crate::server::{Server, layout};

/// For all volumes of a pod: one on a dead file system must not hang the run.
const VOLUMES: Duration = Duration::from_secs(30);

/// Runs the pod to its end and removes it. Returns the exit code.
///
/// # Errors
/// Anything but a container that fails. The pod is removed then, too.
pub async fn run(server: Arc<Server>, pod: Pod, folder: &Path, stop: StopRequests) -> anyhow::Result<u8> {
    let uid = pod.uid.clone().unwrap_or_else(|| PodId::random().short().to_owned());
    let folder = folder.join(&uid);
    let prepare = async {
        let images = pull::all(&server.images, &pod).await?;
        for container in pod.init_containers.iter().chain(&pod.containers) {
            run_as_non_root::check(&server.images, &images, &pod, container).await?;
        }
        let volumes = Volumes::prepare_within(VOLUMES, &pod.volumes, layout::run_volumes(&folder)).await?;
        anyhow::Ok((images, volumes))
    };
    let (images, volumes) = tokio::select! {
        prepared = prepare => prepared?,
        request = stop.wait_for(StopRequest::is_any) => return Ok(request.code().unwrap_or_default()),
    };
    let logs = layout::run_logs(&folder);
    let sandbox = pod_config(&pod, &PodIdentity { uid: &uid, log_directory: &logs });
    let id = match start(&server, &sandbox, &stop).await {
        Ok(id) => id,
        Err(status) => {
            volumes.remove();
            let failed = || Err(refused(status)).with_context(|| format!("cannot start pod {}", pod.name));
            return stop.now().code().map_or_else(failed, Ok);
        }
    };
    let waiter = Waiter::start(&server.runtime).await;
    let hosts = None;
    let mut context = Context { server, pod, uid, id, sandbox, images, volumes, hosts, waiter, stop };
    let code = match write_hosts(&mut context, &folder) {
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
async fn start(server: &Server, sandbox: &PodSandboxConfig, stop: &StopRequests) -> Result<String, Status> {
    let request = RunPodSandboxRequest { config: Some(sandbox.clone()), runtime_handler: String::new() };
    let mut started = server.runtime.run_pod_sandbox(Request::new(request));
    let reply = tokio::select! {
        reply = &mut started => reply,
        _ = stop.wait_for(StopRequest::is_any) => {
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
                let name = &container.name;
                notice(format_args!("init container {name} has failed: the pod does not start"));
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
    let mut ends = Ends::default();
    while let Some(ended) = tasks.join_next().await {
        let ended = ended.map_err(anyhow::Error::from).and_then(|end| end);
        if ended.is_err() {
            // The pod ends with it; the other containers get their grace period.
            notice("stopping the pod after an error");
            context.stop.after_failure();
        }
        ends.add(ended);
    }
    ends.code(context.stop.now())
}

/// How the containers have ended, the first of each kind.
#[derive(Default)]
struct Ends {
    failure: Option<u8>,
    stopped: bool,
    error: Option<anyhow::Error>,
}

impl Ends {
    fn add(&mut self, end: anyhow::Result<End>) {
        match (end, &self.error) {
            (Ok(End::Exited(0)), _) => {}
            (Ok(End::Exited(code)), _) => self.failure = self.failure.or(Some(exit_code(code))),
            (Ok(End::Stopped), _) => self.stopped = true,
            (Err(error), None) => self.error = Some(error),
            (Err(error), Some(_)) => notice(format_args!("{error:#}")),
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

/// Writes a hosts file when the pod has `hostAliases`; without them the runtime writes it.
fn write_hosts(context: &mut Context, folder: &Path) -> anyhow::Result<()> {
    if context.pod.host_aliases.is_empty() {
        return Ok(());
    }
    let own = context.server.pods.find(&context.id)?.files().hosts;
    let text = std::fs::read_to_string(&own).with_context(|| format!("cannot read {}", own.display()))?;
    let path = layout::run_hosts(folder);
    std::fs::create_dir_all(folder)
        .and_then(|()| std::fs::write(&path, hosts_file(&context.pod, &text)))
        .and_then(|()| {
            use std::os::unix::fs::PermissionsExt as _;
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644))
        })
        .with_context(|| format!("cannot write {}", path.display()))?;
    context.hosts = Some(path);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_failure_decides_and_an_error_outweighs_it() {
        let ends = |all: Vec<anyhow::Result<End>>| {
            let mut ends = Ends::default();
            all.into_iter().for_each(|end| ends.add(end));
            ends.code(StopRequest::Stop { code: 130 }).map_err(|error| error.to_string())
        };
        assert_eq!(ends(vec![Ok(End::Exited(0)), Ok(End::Exited(0))]), Ok(0));
        assert_eq!(ends(vec![Ok(End::Stopped), Ok(End::Exited(0))]), Ok(130));
        assert_eq!(ends(vec![Ok(End::Stopped), Ok(End::Exited(7)), Ok(End::Exited(8))]), Ok(7));
        let errors = ["first", "second"].map(|text| Err(anyhow::anyhow!(text)));
        assert_eq!(ends([Ok(End::Exited(7))].into_iter().chain(errors).collect()), Err("first".to_owned()));
    }
}
