//! Finds or starts the pod sandbox, without its containers.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use crisp_proto::runtime::v1::runtime_service_server::RuntimeService as _;
use crisp_proto::runtime::v1::{PodSandboxConfig, RunPodSandboxRequest};
use crisp_sandbox::{NetworkMode, PodKey, PodState};
use tonic::{Request, Status};

use super::cri::{PodIdentity, hosts_file, pod_config};
use super::manifest::Pod;
use super::pod_join::joining;
use super::pod_remove::stop_and_remove;
use super::stop_request::{StopRequest, StopRequests};
use crate::server::{Server, layout};

/// The state of the pod with a uid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    Nothing,
    /// It runs; its id.
    Ready(String),
    /// Its monitor does not answer: the pod probably runs.
    Silent(String),
    /// It was stopped, or the machine was.
    Ended(String),
}

/// A running pod.
pub struct Sandbox {
    pub id: String,
    pub config: PodSandboxConfig,
    pub addresses: Vec<IpAddr>,
    /// Also if it has joined a pod that is.
    pub is_on_host: bool,
}

/// Finds the newest pod with that uid whose logs are in `folder`: a pod of another client may have the same
/// uid.
pub fn find(server: &Server, uid: &str, folder: &Path) -> Found {
    let pods = server.pods.list();
    let in_folder = |logs: &PathBuf| logs.starts_with(folder);
    let ours = pods
        .iter()
        .filter(|pod| pod.config.uid == uid && pod.config.log_directory.as_ref().is_some_and(in_folder));
    let Some(pod) = ours.max_by_key(|pod| pod.config.attempt) else { return Found::Nothing };
    let id = pod.id.as_str().to_owned();
    match pod.status().state {
        PodState::Ready => Found::Ready(id),
        PodState::Unknown { .. } => Found::Silent(id),
        _ => Found::Ended(id),
    }
}

/// Starts the pod, unless it runs. A pod that has ended is removed first and counts as an attempt.
///
/// # Errors
/// The runtime's error.
pub async fn start(
    server: &Server,
    pod: &Pod,
    uid: &str,
    logs: &Path,
    found: Found,
    stop: &StopRequests,
) -> Result<Sandbox, Status> {
    let mut identity = PodIdentity { uid, attempt: 0, log_directory: logs };
    let id = match found {
        Found::Nothing => {
            let config = joining(server, pod, pod_config(pod, &identity), stop).await?;
            run(server, config, stop).await?
        }
        Found::Ready(id) | Found::Silent(id) => {
            identity.attempt = attempt_of(server, &id);
            id
        }
        Found::Ended(id) => {
            identity.attempt = attempt_of(server, &id) + 1;
            // Before the pod and its containers are removed: it may fail.
            let config = joining(server, pod, pod_config(pod, &identity), stop).await?;
            stop_and_remove(server, &id).await.map_err(|error| Status::internal(format!("{error:#}")))?;
            run(server, config, stop).await?
        }
    };
    let made = server.pods.find(&id).ok();
    let addresses = made.as_ref().map(|made| made.status().ips.clone()).unwrap_or_default();
    let is_on_host = made.map_or(pod.host_network, |made| made.config.network == NetworkMode::Host);
    Ok(Sandbox { id, config: pod_config(pod, &identity), addresses, is_on_host })
}

fn attempt_of(server: &Server, id: &str) -> u32 {
    server.pods.find(id).map_or(0, |pod| pod.config.attempt)
}

/// A stop request ends the start and waits until it has been undone.
async fn run(server: &Server, sandbox: PodSandboxConfig, stop: &StopRequests) -> Result<String, Status> {
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
    let id = reply?.into_inner().pod_sandbox_id;
    // For an equal uid the runtime returns the existing pod, which may be another client's.
    let logs = server.pods.find(&id).ok().and_then(|pod| pod.config.log_directory.clone());
    if logs.is_some_and(|logs| logs != Path::new(&sandbox.log_directory)) {
        let why =
            format!("metadata.uid: pod {id} of another client has this uid and name: leave the uid out");
        return Err(Status::already_exists(why));
    }
    Ok(id)
}

/// Writes a hosts file when the pod has `hostAliases`; without them the runtime writes it. The file of a
/// running pod is kept: its containers have it mounted.
///
/// # Errors
/// The file system's error.
pub fn write_hosts(
    server: &Server,
    pod: &Pod,
    id: &str,
    folder: &Path,
    is_running: bool,
) -> anyhow::Result<Option<PathBuf>> {
    if pod.host_aliases.is_empty() {
        return Ok(None);
    }
    let own = server.pods.find(id)?.files().hosts;
    let text = std::fs::read_to_string(&own).with_context(|| format!("cannot read {}", own.display()))?;
    let path = layout::run_hosts(folder);
    if is_running && path.exists() {
        return Ok(Some(path));
    }
    std::fs::create_dir_all(folder)
        .and_then(|()| std::fs::write(&path, hosts_file(pod, &text)))
        .and_then(|()| {
            use std::os::unix::fs::PermissionsExt as _;
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644))
        })
        .with_context(|| format!("cannot write {}", path.display()))?;
    Ok(Some(path))
}
