//! RunPodSandbox.

use crisp_proto::runtime::v1::{PodSandboxMetadata, RunPodSandboxRequest, RunPodSandboxResponse};

use super::{Reply, ServiceState};
use crate::convert;
use crate::error::RuntimeError;
use crate::journal::Entry;
use crate::notes::Requested;

pub(super) async fn call(
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
    let config = convert::pod::request(request, service.pods.cgroup_driver())?;
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

/// Its pods would come up, and each of their containers would fail at its start.
async fn require_user_namespaces(service: &ServiceState) -> Result<(), RuntimeError> {
    let layers = [service.layout.containers(), service.layout.discarded()];
    let condition = service.health.user_namespaces(layers).await;
    if condition.ready { Ok(()) } else { Err(RuntimeError::NoUserNamespaces { why: condition.message }) }
}
