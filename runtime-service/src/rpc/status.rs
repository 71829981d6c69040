//! Status: whether the node can run pods, and if not, which file or setting is wrong.

use std::collections::BTreeMap;
use std::sync::Arc;

use crisp_proto::runtime::v1::{
    RuntimeCondition, RuntimeFeatures, RuntimeHandler, RuntimeHandlerFeatures, RuntimeStatus, StatusRequest,
    StatusResponse,
};
use serde_json::json;

use super::{Reply, ServiceState};
use crate::convert::pod::HANDLER;
use crate::health::Condition;

pub(super) async fn call(service: &Arc<ServiceState>, request: StatusRequest) -> Reply<StatusResponse> {
    let (containers, health) = (service.layout.containers(), &service.health);
    let (runtime, network) = tokio::join!(health.runtime(containers), health.network(&service.pods));
    let handler = |name: &str| RuntimeHandler {
        name: name.to_owned(),
        features: Some(RuntimeHandlerFeatures { recursive_read_only_mounts: true, user_namespaces: false }),
    };
    Ok(StatusResponse {
        status: Some(RuntimeStatus {
            conditions: vec![condition("RuntimeReady", runtime), condition("NetworkReady", network)],
        }),
        info: if request.verbose { info(service) } else { BTreeMap::new() },
        // The empty name is what a pod without a RuntimeClass asks for.
        runtime_handlers: vec![handler(""), handler(HANDLER)],
        features: Some(RuntimeFeatures { supplemental_groups_policy: true, ..Default::default() }),
    })
}

fn condition(kind: &str, condition: Condition) -> RuntimeCondition {
    let Condition { ready, reason, message } = condition;
    RuntimeCondition { r#type: kind.to_owned(), status: ready, reason, message }
}

fn info(service: &ServiceState) -> BTreeMap<String, String> {
    let mut capabilities: Vec<String> =
        service.host.capabilities.iter().map(|c| format!("CAP_{c}")).collect();
    capabilities.sort();
    let info = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "root": service.config.root,
        "cgroupDriver": service.pods.cgroup_driver().as_str(),
        "cgroupMode": format!("{:?}", service.cgroups.mode()),
        "apparmor": service.host.apparmor.is_enabled(),
        "capabilities": capabilities,
        "pods": service.pods.list().len(),
        "containers": service.containers.all().len(),
    });
    let mut all = BTreeMap::from([("info".to_owned(), info.to_string())]);
    // For clients of the streaming URLs: who may use this socket need trust no authority.
    if let Some(certificate) = service.streams.certificate() {
        all.insert("streamCertificate".to_owned(), certificate);
    }
    all
}
