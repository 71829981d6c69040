//! PodSandboxStatus, from memory.

use std::collections::BTreeMap;

use crisp_operation::clock;
use crisp_proto::runtime::v1::{PodSandboxStatusRequest, PodSandboxStatusResponse};
use crisp_sandbox::Pod;
use serde_json::json;

use super::{Reply, ServiceState};
use crate::convert::response;

pub(super) fn call(
    service: &ServiceState,
    request: PodSandboxStatusRequest,
) -> Reply<PodSandboxStatusResponse> {
    let pod = service.pods.find(&request.pod_sandbox_id)?;
    // Before the statuses are read: a kubelet drops events of changes that are older than this.
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
