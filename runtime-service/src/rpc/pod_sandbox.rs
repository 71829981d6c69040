//! RPCs about one pod, and lists of pods.

use std::collections::BTreeMap;
use std::sync::Arc;

use crisp_operation::clock;
use crisp_proto::runtime::v1::{
    LinuxContainerResources, ListPodSandboxRequest, ListPodSandboxResponse, PodSandboxMetadata,
    PodSandboxStatusRequest, PodSandboxStatusResponse, RemovePodSandboxRequest, RemovePodSandboxResponse,
    RunPodSandboxRequest, RunPodSandboxResponse, StopPodSandboxRequest, StopPodSandboxResponse,
    StreamPodSandboxesRequest, StreamPodSandboxesResponse, UpdatePodSandboxResourcesRequest,
    UpdatePodSandboxResourcesResponse,
};
use crisp_sandbox::{FindError, NetworkMode, Pod};
use serde_json::json;

use super::messages::{MessageStream, in_messages};
use super::{Reply, ServiceState};
use crate::convert::{self, response};
use crate::error::RuntimeError;
use crate::filter::Filter;
use crate::journal::Entry;
use crate::notes::Requested;
use crate::ops;

/// RunPodSandbox.
pub(super) async fn run_pod_sandbox(
    service: &ServiceState,
    request: RunPodSandboxRequest,
) -> Reply<RunPodSandboxResponse> {
    let metadata = request.config.as_ref().and_then(|config| config.metadata.clone()).unwrap_or_default();
    match run(service, request).await {
        Ok(pod_sandbox_id) => Ok(RunPodSandboxResponse { pod_sandbox_id }),
        Err(error) => {
            service.note_refusal(requested(metadata), &error);
            Err(error)
        }
    }
}

async fn run(service: &ServiceState, request: RunPodSandboxRequest) -> Result<String, RuntimeError> {
    let mut config = convert::pod::request(request, service.pods.cgroup_driver())?;
    if let NetworkMode::Joined(target) = &mut config.network
        && let Ok(container) = service.container(target.as_str())
    {
        *target = container.metadata.pod.clone();
    }
    if config.user.is_some() {
        require_user_namespaces(service).await?;
    }
    Ok(service.pods.run(config).await?.to_string())
}

fn requested(metadata: PodSandboxMetadata) -> Requested<'static> {
    let PodSandboxMetadata { name, uid, namespace, attempt } = metadata;
    let entry = Entry {
        name: name.clone().into(),
        pod: name.into(),
        namespace: namespace.into(),
        pod_uid: uid.into(),
        attempt,
        ..Entry::default()
    };
    Requested { operation: "run_pod", entry }
}

/// Refuses early: otherwise the pod would start, and each of its containers would fail to.
async fn require_user_namespaces(service: &ServiceState) -> Result<(), RuntimeError> {
    let layers = [service.layout.containers(), service.layout.discarded()];
    let condition = service.health.user_namespaces(layers).await;
    if condition.ready { Ok(()) } else { Err(RuntimeError::NoUserNamespaces { why: condition.message }) }
}

/// StopPodSandbox. Succeeds for an unknown pod, as the contract requires.
pub(super) async fn stop_pod_sandbox(
    service: &Arc<ServiceState>,
    request: StopPodSandboxRequest,
) -> Reply<StopPodSandboxResponse> {
    match service.pods.find(&request.pod_sandbox_id) {
        Ok(pod) => ops::pod_stop::stop(service, pod).await?,
        Err(FindError::None { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(StopPodSandboxResponse {})
}

/// RemovePodSandbox: also removes the pod's containers. Succeeds for an unknown pod, as the contract requires.
pub(super) async fn remove_pod_sandbox(
    service: &Arc<ServiceState>,
    request: RemovePodSandboxRequest,
) -> Reply<RemovePodSandboxResponse> {
    match service.pods.find(&request.pod_sandbox_id) {
        Ok(pod) => ops::pod_remove::remove(service, pod).await?,
        Err(FindError::None { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(RemovePodSandboxResponse {})
}

/// PodSandboxStatus, from memory.
pub(super) fn pod_sandbox_status(
    service: &ServiceState,
    request: PodSandboxStatusRequest,
) -> Reply<PodSandboxStatusResponse> {
    let pod = service.pods.find(&request.pod_sandbox_id)?;
    // Taken before the statuses are read: kubelet drops events of changes that are older than this.
    let timestamp = clock::now();
    let containers = service.containers.statuses_of_pod(&pod.id);
    Ok(PodSandboxStatusResponse {
        status: Some(response::pod_status(&pod, &pod.status())),
        info: if request.verbose { info(&pod) } else { BTreeMap::new() },
        containers_statuses: response::container_statuses(&containers),
        timestamp,
    })
}

/// The details that crictl inspectp shows; `pid` and the namespace paths are for nsenter.
fn info(pod: &Pod) -> BTreeMap<String, String> {
    let status = pod.status();
    let pid = status.monitor_pid;
    let info = json!({
        "pid": pid.unwrap_or_default(),
        "state": status.state.to_string(),
        "networkNamespace": pid.map(|pid| format!("/proc/{pid}/ns/net")),
        "cgroupParent": pod.cgroup_parent().as_str(),
        "config": pod.config,
        "overhead": status.resources.overhead,
        "resources": status.resources.containers,
    });
    [("info".to_owned(), info.to_string())].into()
}

/// ListPodSandbox, from memory.
pub(super) fn list_pod_sandbox(
    service: &ServiceState,
    request: ListPodSandboxRequest,
) -> Reply<ListPodSandboxResponse> {
    let items = Filter::from(request.filter).pods(service).iter().map(|pod| response::pod(pod)).collect();
    Ok(ListPodSandboxResponse { items })
}

/// StreamPodSandboxes: the result of ListPodSandbox in several messages, for long lists.
pub(super) fn stream_pod_sandboxes(
    service: &ServiceState,
    request: StreamPodSandboxesRequest,
) -> Reply<MessageStream<StreamPodSandboxesResponse>> {
    let pods = Filter::from(request.filter).pods(service).iter().map(|pod| response::pod(pod)).collect();
    Ok(in_messages(pods, |pod_sandboxes| StreamPodSandboxesResponse { pod_sandboxes }))
}

/// UpdatePodSandboxResources: records the new sums. Kubelet has already set them in the pod's cgroup.
pub(super) async fn update_pod_sandbox_resources(
    service: &Arc<ServiceState>,
    request: UpdatePodSandboxResourcesRequest,
) -> Reply<UpdatePodSandboxResourcesResponse> {
    let pod = service.pods.find(&request.pod_sandbox_id)?;
    let limits = |field: &str, value: Option<LinuxContainerResources>| {
        let limits = value.map(|value| convert::resources::resources(field, value)).transpose()?;
        Ok::<_, RuntimeError>(limits)
    };
    let overhead = limits("overhead", request.overhead)?;
    let containers = limits("resources", request.resources)?;
    ops::pod_update::update(service, &pod, overhead, containers).await?;
    Ok(UpdatePodSandboxResourcesResponse {})
}
