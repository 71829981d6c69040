//! The runtime itself: its version, its state and its settings.

use std::collections::BTreeMap;
use std::sync::Arc;

use crisp_proto::runtime::v1::{
    CgroupDriver as Answer, LinuxRuntimeConfiguration, RuntimeCondition, RuntimeConfigRequest,
    RuntimeConfigResponse, RuntimeFeatures, RuntimeHandler, RuntimeHandlerFeatures, RuntimeStatus,
    StatusRequest, StatusResponse, UpdateRuntimeConfigRequest, UpdateRuntimeConfigResponse, VersionRequest,
    VersionResponse,
};
use crisp_sandbox::CgroupDriver;
use serde_json::json;

use super::{Reply, ServiceState};
use crate::convert::pod::HANDLER;
use crate::health::Condition;

/// Version.
pub(super) fn version(_request: VersionRequest) -> Reply<VersionResponse> {
    Ok(VersionResponse {
        // The version of kubelet's runtime API. Kubelet expects exactly this.
        version: "0.1.0".to_owned(),
        runtime_name: "crisp".to_owned(),
        runtime_version: env!("CARGO_PKG_VERSION").to_owned(),
        runtime_api_version: "v1".to_owned(),
    })
}

/// Status: whether the node can run pods, and if not, the file or setting that is wrong.
pub(super) async fn status(service: &Arc<ServiceState>, request: StatusRequest) -> Reply<StatusResponse> {
    let (containers, health) = (service.layout.containers(), &service.health);
    let layers = [service.layout.containers(), service.layout.discarded()];
    let (runtime, network, user_namespaces) = tokio::join!(
        health.runtime(containers),
        health.network(&service.pods),
        health.user_namespaces(layers)
    );
    let handler = |name: &str| RuntimeHandler {
        name: name.to_owned(),
        features: Some(RuntimeHandlerFeatures {
            // The kernel has this since 5.12, which every container requires anyway.
            recursive_read_only_mounts: true,
            user_namespaces: user_namespaces.ready,
        }),
    };
    Ok(StatusResponse {
        status: Some(RuntimeStatus {
            conditions: vec![condition("RuntimeReady", runtime), condition("NetworkReady", network)],
        }),
        info: if request.verbose { info(service, &user_namespaces) } else { BTreeMap::new() },
        // A pod without a RuntimeClass requests the empty name.
        runtime_handlers: vec![handler(""), handler(HANDLER)],
        features: Some(RuntimeFeatures {
            supplemental_groups_policy: true,
            user_namespaces_host_network: user_namespaces.ready,
            mount_options: true,
        }),
    })
}

fn condition(kind: &str, condition: Condition) -> RuntimeCondition {
    let Condition { ready, reason, message } = condition;
    RuntimeCondition { r#type: kind.to_owned(), status: ready, reason, message }
}

fn info(service: &ServiceState, user_namespaces: &Condition) -> BTreeMap<String, String> {
    let mut capabilities: Vec<String> =
        service.host.capabilities.iter().map(|c| format!("CAP_{c}")).collect();
    capabilities.sort();
    let info = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "root": service.config.root,
        "cgroupDriver": service.pods.cgroup_driver().as_str(),
        "cgroupVersion": service.cgroups.mode().as_str(),
        "cgroupControllers": service.cgroups.controllers(),
        "apparmor": service.host.apparmor.is_enabled(),
        "userNamespaces": if user_namespaces.ready { "yes" } else { user_namespaces.message.as_str() },
        "capabilities": capabilities,
        "pods": service.pods.list().len(),
        "containers": service.containers.all().len(),
    });
    let mut all = BTreeMap::from([("info".to_owned(), info.to_string())]);
    // For clients of the streaming URLs: a user of this socket needs no certificate authority.
    if let Some(certificate) = service.streams.certificate() {
        all.insert("streamCertificate".to_owned(), certificate);
    }
    all
}

/// RuntimeConfig: the cgroup driver that kubelet must use.
pub(super) fn runtime_config(
    service: &ServiceState,
    _request: RuntimeConfigRequest,
) -> Reply<RuntimeConfigResponse> {
    let driver = match service.pods.cgroup_driver() {
        CgroupDriver::Cgroupfs => Answer::Cgroupfs,
        CgroupDriver::Systemd => Answer::Systemd,
    };
    Ok(RuntimeConfigResponse { linux: Some(LinuxRuntimeConfiguration { cgroup_driver: driver.into() }) })
}

/// UpdateRuntimeConfig: kubelet sends the node's pod CIDR.
pub(super) async fn update_runtime_config(
    service: &ServiceState,
    request: UpdateRuntimeConfigRequest,
) -> Reply<UpdateRuntimeConfigResponse> {
    let pod_cidr =
        request.runtime_config.and_then(|c| c.network_config).map(|n| n.pod_cidr).unwrap_or_default();
    // Empty on a node that has none yet.
    if !pod_cidr.is_empty() {
        service.pods.networks().update_pod_cidr(&pod_cidr).await?;
    }
    Ok(UpdateRuntimeConfigResponse {})
}
