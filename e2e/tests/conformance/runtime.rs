//! The runtime itself: version, status, configuration.

use std::collections::BTreeSet;

use crisp_e2e::Result;
use k8s_cri::v1::{
    CgroupDriver, CheckpointContainerRequest, NetworkConfig, RunPodSandboxRequest, RuntimeConfig,
    RuntimeConfigRequest, StatusRequest, StatusResponse, UpdateRuntimeConfigRequest, VersionRequest,
};
use tonic::Code;

use crate::cri::{Cri, unique};
use crate::resources::cgroups_of;

promises! {
    version_names_the_runtime: Cri, ["Version", "VersionRequest.version", "VersionResponse.version",
        "VersionResponse.runtime_name", "VersionResponse.runtime_version", "VersionResponse.runtime_api_version"],
        "Version names the runtime, its version and the API version v1";
    status_has_both_required_conditions: Cri, ["Status", "StatusResponse.status", "RuntimeStatus.conditions",
        "RuntimeCondition.type", "RuntimeCondition.status", "RuntimeCondition.reason", "RuntimeCondition.message"],
        "Status has the conditions RuntimeReady and NetworkReady; one that is not met has a reason and a message";
    status_has_info_when_it_is_verbose: Cri, ["StatusRequest.verbose", "StatusResponse.info"],
        "Status has info in JSON when it is asked for, and else none",
        containerd: "is no JSON";
    handlers_are_unique_and_run_pods: Cri, ["StatusResponse.runtime_handlers", "RuntimeHandler.name",
        "RuntimeHandler.features", "RunPodSandboxRequest.runtime_handler", "PodSandboxStatus.runtime_handler"],
        "Handlers have unique names, the empty one is the default, and each runs pods, whose status names it";
    an_unknown_handler_is_refused: Cri, ["RunPodSandboxRequest.runtime_handler"],
        "A pod for a handler that the runtime does not have is refused";
    the_cgroup_driver_is_the_one_used: Kubernetes, ["RuntimeConfig", "RuntimeConfigResponse.linux",
        "LinuxRuntimeConfiguration.cgroup_driver", "LinuxPodSandboxConfig.cgroup_parent"],
        "A pod's cgroup parent in the form of the driver that RuntimeConfig answers holds its containers' cgroups";
    the_pod_cidr_is_taken: Cri, ["UpdateRuntimeConfig", "UpdateRuntimeConfigRequest.runtime_config",
        "RuntimeConfig.network_config", "NetworkConfig.pod_cidr"],
        "The node's pod CIDR is taken at any time, and pods run after it";
    checkpoint_writes_an_archive: Kubernetes, ["CheckpointContainer", "CheckpointContainerRequest.container_id",
        "CheckpointContainerRequest.location", "CheckpointContainerRequest.timeout"],
        "A running container is checkpointed to an archive at the location",
        crisp: "CheckpointContainer is not supported by this server", containerd: "checkpoint";
}

async fn version_names_the_runtime(cri: &mut Cri) -> Result<()> {
    let version = VersionRequest { version: "v1".into() };
    let answer = cri.client.runtime.version(version).await?.into_inner();
    assert!(!answer.runtime_name.is_empty(), "{answer:?}");
    assert_eq!((answer.version.as_str(), answer.runtime_api_version.as_str()), ("0.1.0", "v1"));
    let numbers = answer.runtime_version.trim_start_matches('v').split(['-', '+']).next().unwrap_or_default();
    let numbers: Vec<_> = numbers.split('.').map(str::parse::<u32>).collect();
    assert!(numbers.len() == 3 && numbers.iter().all(Result::is_ok), "no semantic version: {answer:?}");
    Ok(())
}

async fn status(cri: &mut Cri, verbose: bool) -> Result<StatusResponse> {
    Ok(cri.client.runtime.status(StatusRequest { verbose }).await?.into_inner())
}

async fn status_has_both_required_conditions(cri: &mut Cri) -> Result<()> {
    let conditions = status(cri, false).await?.status.ok_or("no status")?.conditions;
    for name in ["RuntimeReady", "NetworkReady"] {
        let found: Vec<_> = conditions.iter().filter(|condition| condition.r#type == name).collect();
        assert!(matches!(found[..], [condition] if condition.status), "{name}: {conditions:?}");
    }
    for unmet in conditions.iter().filter(|condition| !condition.status) {
        assert!(!unmet.reason.is_empty() && !unmet.message.is_empty(), "{unmet:?}");
    }
    Ok(())
}

async fn status_has_info_when_it_is_verbose(cri: &mut Cri) -> Result<()> {
    assert!(status(cri, false).await?.info.is_empty());
    let info = status(cri, true).await?.info;
    assert!(!info.is_empty());
    for (name, value) in info {
        let json = serde_json::from_str::<serde_json::Value>(&value);
        assert!(json.is_ok(), "{name} is no JSON: {value}");
    }
    Ok(())
}

async fn handlers_are_unique_and_run_pods(cri: &mut Cri) -> Result<()> {
    let handlers = status(cri, false).await?.runtime_handlers;
    let names: BTreeSet<&str> = handlers.iter().map(|handler| handler.name.as_str()).collect();
    assert_eq!(names.len(), handlers.len(), "{handlers:?}");
    assert!(names.contains("") && names.len() > 1, "{names:?}");
    assert!(handlers.iter().all(|handler| handler.features.is_some()), "{handlers:?}");
    for name in names {
        let config = cri.sandbox();
        let request = RunPodSandboxRequest { config: Some(config), runtime_handler: name.into() };
        let id = cri.client.runtime.run_pod_sandbox(request).await?.into_inner().pod_sandbox_id;
        let status = cri.pod_status(&id).await;
        cri.remove_pod(&id).await?;
        assert_eq!(status?.runtime_handler, name);
    }
    Ok(())
}

async fn an_unknown_handler_is_refused(cri: &mut Cri) -> Result<()> {
    let request =
        RunPodSandboxRequest { config: Some(cri.sandbox()), runtime_handler: "no-such-handler".into() };
    let refused = cri.client.runtime.run_pod_sandbox(request).await.expect_err("there is no such handler");
    crisp_e2e::says(&refused, &["no-such-handler"]);
    Ok(())
}

async fn the_cgroup_driver_is_the_one_used(cri: &mut Cri) -> Result<()> {
    let answer = cri.client.runtime.runtime_config(RuntimeConfigRequest {}).await?.into_inner();
    let driver = answer.linux.ok_or("nothing for Linux")?.cgroup_driver();
    let name = unique("conformance").replace('-', "");
    let parent = match driver {
        CgroupDriver::Systemd => format!("{name}.slice"),
        CgroupDriver::Cgroupfs => format!("/{name}"),
    };
    let mut config = cri.sandbox();
    config.linux.get_or_insert_default().cgroup_parent.clone_from(&parent);
    let pod = cri.run(&config).await?;
    let config = cri.shell("exec sleep 1000");
    let container = cri.launch(&pod, &config).await?;
    let found = cgroups_of(&container)?;
    let is_below = |path: &&String| path.contains(&format!("/{}/", parent.trim_start_matches('/')));
    let outside: Vec<_> = found.iter().filter(|path| !is_below(path)).collect();
    assert!(!found.is_empty() && outside.is_empty(), "{outside:?} of {found:?}");
    cri.remove_pod(&pod.id).await?;
    // kubelet makes and removes the parent cgroup; here the test does so.
    crate::node::remove_cgroups(&name);
    Ok(())
}

async fn the_pod_cidr_is_taken(cri: &mut Cri) -> Result<()> {
    let network_config = Some(NetworkConfig { pod_cidr: "10.123.4.0/24".into() });
    let config = RuntimeConfig { network_config };
    let request = UpdateRuntimeConfigRequest { runtime_config: Some(config) };
    cri.client.runtime.update_runtime_config(request).await?;
    let (_, container) = cri.running().await?;
    assert!(!cri.sh(&container, "ip -4 addr show eth0").await?.is_empty());
    Ok(())
}

async fn checkpoint_writes_an_archive(cri: &mut Cri) -> Result<()> {
    let (_, container_id) = cri.running().await?;
    let archive = cri.new_folder()?.join("checkpoint.tar");
    let location = archive.display().to_string();
    let request = CheckpointContainerRequest { container_id, location, timeout: 20 };
    match cri.client.runtime.checkpoint_container(request).await {
        Ok(_) => assert!(archive.metadata()?.len() > 0),
        Err(status) => {
            assert_eq!(status.code(), Code::Unimplemented, "{status}");
            return Err(status.message().into());
        }
    }
    Ok(())
}
