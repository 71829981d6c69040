//! Status: what works, and what is wrong with which file or setting.

use std::collections::BTreeMap;

use crisp_proto::runtime::v1::{
    RuntimeCondition, RuntimeFeatures, RuntimeHandler, RuntimeHandlerFeatures, RuntimeStatus, StatusRequest,
    StatusResponse,
};
use rustix::fs::Access;
use serde_json::json;

use super::{Reply, ServiceState};
use crate::convert::pod::HANDLER;

pub(super) async fn call(service: &ServiceState, request: StatusRequest) -> Reply<StatusResponse> {
    let network = service.pods.network_status();
    let network = condition("NetworkReady", network.ready, network.reason, network.message);
    let handler = |name: &str| RuntimeHandler {
        name: name.to_owned(),
        features: Some(RuntimeHandlerFeatures { recursive_read_only_mounts: true, user_namespaces: false }),
    };
    Ok(StatusResponse {
        status: Some(RuntimeStatus { conditions: vec![runtime(service), network] }),
        info: if request.verbose { info(service) } else { BTreeMap::new() },
        // The empty name is what a pod without a RuntimeClass asks for.
        runtime_handlers: vec![handler(""), handler(HANDLER)],
        features: Some(RuntimeFeatures { supplemental_groups_policy: true, ..Default::default() }),
    })
}

fn condition(kind: &str, status: bool, reason: String, message: String) -> RuntimeCondition {
    RuntimeCondition { r#type: kind.to_owned(), status, reason, message }
}

/// Containers need a folder that can be written.
fn runtime(service: &ServiceState) -> RuntimeCondition {
    let folder = service.layout.containers();
    match rustix::fs::access(&folder, Access::WRITE_OK | Access::EXEC_OK) {
        Ok(()) => condition("RuntimeReady", true, String::new(), String::new()),
        Err(errno) => {
            let message = format!("root: {}: {errno}", folder.display());
            condition("RuntimeReady", false, "RootNotWritable".to_owned(), message)
        }
    }
}

fn info(service: &ServiceState) -> BTreeMap<String, String> {
    let mut capabilities: Vec<String> =
        service.host.capabilities.iter().map(|c| format!("CAP_{c}")).collect();
    capabilities.sort();
    let info = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "root": service.config.root,
        "cgroupDriver": format!("{:?}", service.config.cgroup_driver).to_lowercase(),
        "cgroupMode": format!("{:?}", service.cgroups.mode()),
        "apparmor": service.host.apparmor.is_enabled(),
        "capabilities": capabilities,
        "pods": service.pods.list().len(),
        "containers": service.containers.all().len(),
    });
    [("info".to_owned(), info.to_string())].into()
}
