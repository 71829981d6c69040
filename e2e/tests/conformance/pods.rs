//! Pod sandboxes: running, stopped and removed, and their status.

use crisp_e2e::{Result, says};
use k8s_cri::v1::{
    ContainerState, PodSandboxFilter, PodSandboxState, PodSandboxStatusRequest, RemovePodSandboxRequest,
    StopPodSandboxRequest,
};
use tonic::Code;

use crate::cri::{Cri, unknown};
use crate::listing::pods;

promises! {
    a_pod_is_ready_when_run_returns: Cri, ["RunPodSandbox", "RunPodSandboxRequest.config",
        "RunPodSandboxResponse.pod_sandbox_id", "PodSandboxStatus.state"],
        "A pod sandbox is ready when RunPodSandbox returns";
    a_pods_status_is_what_was_asked_for: Cri, ["PodSandboxStatus", "PodSandboxStatusRequest.pod_sandbox_id",
        "PodSandboxStatusResponse.status", "PodSandboxStatus.id", "PodSandboxStatus.metadata",
        "PodSandboxStatus.created_at", "PodSandboxStatus.labels", "PodSandboxStatus.annotations",
        "PodSandboxConfig.metadata", "PodSandboxConfig.labels", "PodSandboxConfig.annotations",
        "PodSandboxMetadata.name", "PodSandboxMetadata.uid", "PodSandboxMetadata.namespace"],
        "A pod's status has its metadata, labels and annotations unaltered, and when it was created";
    a_pods_status_has_info_when_it_is_verbose: Cri, ["PodSandboxStatusRequest.verbose",
        "PodSandboxStatusResponse.info"],
        "A pod's status has info when it is asked for, and else none",
        containerd: "info with verbose false";
    a_pods_status_has_its_containers: Cri, ["PodSandboxStatusResponse.containers_statuses",
        "PodSandboxStatusResponse.timestamp"],
        "A pod's status has the statuses of its containers and the time at which they were recorded",
        containerd: "the statuses of its containers are []";
    an_unknown_pods_status_is_not_found: Kubernetes, ["PodSandboxStatus"],
        "The status of a pod that does not exist is the error NotFound";
    a_stopped_pod_is_not_ready_and_listed: Cri, ["StopPodSandbox", "StopPodSandboxRequest.pod_sandbox_id",
        "PodSandbox.state"],
        "A stopped pod is not ready, and is listed until it is removed";
    stopping_a_pod_ends_its_containers: Cri, ["StopPodSandbox"],
        "Stopping a pod ends its running containers by force";
    a_pod_is_stopped_any_number_of_times: Cri, ["StopPodSandbox"],
        "Stopping a stopped pod succeeds";
    a_pod_that_is_gone_is_stopped_without_an_error: Cri, ["StopPodSandbox"],
        "Stopping a pod that was removed, or never was, succeeds";
    a_running_pod_is_removed_with_its_containers: Cri, ["RemovePodSandbox", "RemovePodSandboxRequest.pod_sandbox_id"],
        "Removing a ready pod ends and removes its running containers";
    a_pod_is_removed_any_number_of_times: Cri, ["RemovePodSandbox"],
        "Removing a pod that was removed, or never was, succeeds";
    a_pod_of_the_same_metadata_is_not_made_twice: Cri, ["PodSandboxConfig.metadata"],
        "RunPodSandbox with the metadata of a pod that exists makes no second one";
    another_attempt_is_another_pod: Cri, ["PodSandboxMetadata.attempt"],
        "The next attempt is a pod of its own beside the stopped one";
    a_pod_that_cannot_be_run_leaves_nothing: Kubernetes, ["RunPodSandbox"],
        "A pod that could not be run is not ready afterwards, and can be run after its config was mended";
    a_pod_without_metadata_is_refused: Cri, ["PodSandboxConfig.metadata"],
        "A pod without metadata is refused";
    a_pod_has_its_hostname: Kubernetes, ["PodSandboxConfig.hostname"],
        "Every container of a pod has the pod's hostname";
    a_pod_has_its_sysctls: Kubernetes, ["LinuxPodSandboxConfig.sysctls", "PodSandboxConfig.linux"],
        "Sysctls of the network and of IPC apply to every container of the pod, and to no other pod";
    a_sysctl_of_the_node_is_refused: Kubernetes, ["LinuxPodSandboxConfig.sysctls"],
        "A sysctl that is not the pod's own is refused and the node's keeps its value";
    a_stopped_pod_takes_no_containers: Kubernetes, ["CreateContainer"],
        "A pod that is not ready takes no new containers";
}

async fn a_pod_is_ready_when_run_returns(cri: &mut Cri) -> Result<()> {
    let pod = cri.pod().await?;
    assert!(!pod.id.is_empty());
    let status = cri.pod_status(&pod.id).await?;
    assert_eq!(status.state(), PodSandboxState::SandboxReady);
    Ok(())
}

async fn a_pods_status_is_what_was_asked_for(cri: &mut Cri) -> Result<()> {
    let mut config = cri.sandbox();
    config.labels.insert("io.kubernetes.pod.name".into(), "some name".into());
    config.annotations.insert("example.org/text".into(), "lines\nand \"quotes\" \u{fffd} \u{1f980}".into());
    config.annotations.insert("empty".into(), String::new());
    let pod = cri.run(&config).await?;
    let status = cri.pod_status(&pod.id).await?;
    assert_eq!((&status.id, &status.metadata), (&pod.id, &config.metadata));
    assert_eq!((&status.labels, &status.annotations), (&config.labels, &config.annotations));
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_nanos();
    let age = now.saturating_sub(status.created_at.try_into()?);
    assert!(age < 60_000_000_000, "created {age} ns ago");
    Ok(())
}

async fn a_pods_status_has_info_when_it_is_verbose(cri: &mut Cri) -> Result<()> {
    let pod = cri.pod().await?;
    for verbose in [false, true] {
        let request = PodSandboxStatusRequest { pod_sandbox_id: pod.id.clone(), verbose };
        let info = cri.client.runtime.pod_sandbox_status(request).await?.into_inner().info;
        assert!(info.is_empty() != verbose, "info with verbose {verbose}: {info:?}");
    }
    Ok(())
}

async fn a_pods_status_has_its_containers(cri: &mut Cri) -> Result<()> {
    let (pod, id) = cri.running().await?;
    let request = PodSandboxStatusRequest { pod_sandbox_id: pod.id, verbose: false };
    let answer = cri.client.runtime.pod_sandbox_status(request).await?.into_inner();
    let statuses: Vec<_> =
        answer.containers_statuses.iter().map(|status| (&status.id, status.state())).collect();
    let expected = [(&id, ContainerState::ContainerRunning)];
    assert!(statuses == expected, "the statuses of its containers are {statuses:?}");
    assert!(answer.timestamp > 0);
    Ok(())
}

async fn an_unknown_pods_status_is_not_found(cri: &mut Cri) -> Result<()> {
    let never = cri.pod_status(&unknown()).await.expect_err("there is no such pod");
    assert_eq!(never.code(), Code::NotFound, "{never}");
    let pod = cri.pod().await?;
    cri.stop_pod(&pod.id).await?;
    cri.remove_pod(&pod.id).await?;
    let removed = cri.pod_status(&pod.id).await.expect_err("the pod is removed");
    assert_eq!(removed.code(), Code::NotFound, "{removed}");
    Ok(())
}

async fn a_stopped_pod_is_not_ready_and_listed(cri: &mut Cri) -> Result<()> {
    let pod = cri.pod().await?;
    cri.stop_pod(&pod.id).await?;
    assert_eq!(cri.pod_status(&pod.id).await?.state(), PodSandboxState::SandboxNotready);
    let filter = PodSandboxFilter { id: pod.id.clone(), ..Default::default() };
    let listed = pods(cri, filter).await?;
    assert!(matches!(&listed[..], [one] if one.state() == PodSandboxState::SandboxNotready), "{listed:?}");
    Ok(())
}

async fn stopping_a_pod_ends_its_containers(cri: &mut Cri) -> Result<()> {
    let config = cri.shell("trap '' TERM; while true; do sleep 0.1; done");
    let (pod, id) = cri.running_as(&config).await?;
    cri.stop_pod(&pod.id).await?;
    let status = cri.client.status(&id).await?;
    assert_eq!((status.state(), status.exit_code), (ContainerState::ContainerExited, 137));
    Ok(())
}

async fn a_pod_is_stopped_any_number_of_times(cri: &mut Cri) -> Result<()> {
    let pod = cri.pod().await?;
    for _ in 0..3 {
        cri.stop_pod(&pod.id).await?;
        assert_eq!(cri.pod_status(&pod.id).await?.state(), PodSandboxState::SandboxNotready);
    }
    Ok(())
}

async fn a_pod_that_is_gone_is_stopped_without_an_error(cri: &mut Cri) -> Result<()> {
    let pod = cri.pod().await?;
    cri.remove_pod(&pod.id).await?;
    for id in [pod.id, unknown()] {
        let request = StopPodSandboxRequest { pod_sandbox_id: id };
        cri.client.runtime.stop_pod_sandbox(request).await?;
    }
    Ok(())
}

async fn a_running_pod_is_removed_with_its_containers(cri: &mut Cri) -> Result<()> {
    let (pod, id) = cri.running().await?;
    cri.remove_pod(&pod.id).await?;
    assert!(cri.pod_status(&pod.id).await.is_err() && cri.client.status(&id).await.is_err());
    let filter = PodSandboxFilter { id: pod.id, ..Default::default() };
    assert!(pods(cri, filter).await?.is_empty());
    Ok(())
}

async fn a_pod_is_removed_any_number_of_times(cri: &mut Cri) -> Result<()> {
    let pod = cri.pod().await?;
    for id in [pod.id.clone(), pod.id, unknown()] {
        let request = RemovePodSandboxRequest { pod_sandbox_id: id };
        cri.client.runtime.remove_pod_sandbox(request).await?;
    }
    Ok(())
}

/// The pods with this test's label.
async fn with_label(cri: &mut Cri, label: &str) -> Result<Vec<(String, PodSandboxState)>> {
    let label_selector = [("conformance".to_owned(), label.to_owned())].into();
    let found = pods(cri, PodSandboxFilter { label_selector, ..Default::default() }).await?;
    Ok(found.into_iter().map(|pod| (pod.id.clone(), pod.state())).collect())
}

async fn a_pod_of_the_same_metadata_is_not_made_twice(cri: &mut Cri) -> Result<()> {
    let mut config = cri.sandbox();
    config.labels.insert("conformance".into(), config.hostname.clone());
    let pod = cri.run(&config).await?;
    if let Ok(second) = cri.client.run_pod(&config).await {
        assert_eq!(second, pod.id);
    }
    let found = with_label(cri, &config.hostname).await?;
    assert_eq!(found, [(pod.id, PodSandboxState::SandboxReady)]);
    Ok(())
}

async fn another_attempt_is_another_pod(cri: &mut Cri) -> Result<()> {
    let mut config = cri.sandbox();
    config.labels.insert("conformance".into(), config.hostname.clone());
    let first = cri.run(&config).await?;
    cri.stop_pod(&first.id).await?;
    config.metadata.get_or_insert_default().attempt = 1;
    let second = cri.run(&config).await?;
    let found = with_label(cri, &config.hostname).await?;
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found.contains(&(second.id.clone(), PodSandboxState::SandboxReady)), "{found:?}");
    let attempt = cri.pod_status(&second.id).await?.metadata.map(|metadata| metadata.attempt);
    assert_eq!(attempt, Some(1));
    Ok(())
}

async fn a_pod_that_cannot_be_run_leaves_nothing(cri: &mut Cri) -> Result<()> {
    let mut config = cri.sandbox();
    config.labels.insert("conformance".into(), config.hostname.clone());
    let sysctls = &mut config.linux.get_or_insert_default().sysctls;
    sysctls.insert("net.ipv4.no_such_setting".into(), "1".into());
    let refused = cri.run(&config).await.err().ok_or("there is no such sysctl, but the pod runs")?;
    says(&refused, &["no_such_setting"]);
    let found = with_label(cri, &config.hostname).await?;
    assert!(found.iter().all(|(_, state)| *state == PodSandboxState::SandboxNotready), "{found:?}");
    for (id, _) in found {
        cri.remove_pod(&id).await?;
    }
    config.linux.get_or_insert_default().sysctls.clear();
    cri.run(&config).await?;
    Ok(())
}

async fn a_pod_without_metadata_is_refused(cri: &mut Cri) -> Result<()> {
    let mut config = cri.sandbox();
    config.metadata = None;
    let refused = cri.run(&config).await.err().ok_or("a pod without metadata runs")?;
    says(&refused, &["metadata"]);
    Ok(())
}

async fn a_pod_has_its_hostname(cri: &mut Cri) -> Result<()> {
    // The second one is what a kubelet without a cluster domain makes of setHostnameAsFQDN.
    for name in ["some-host", "web.sub.ns.svc."] {
        let mut config = cri.sandbox();
        config.hostname = name.into();
        let pod = cri.run(&config).await?;
        for _ in 0..2 {
            let line = cri.shell("hostname; cat /proc/sys/kernel/hostname");
            assert_eq!(cri.output_in(&pod, &line).await?, format!("{name}\n{name}\n"));
        }
    }
    Ok(())
}

async fn a_pod_has_its_sysctls(cri: &mut Cri) -> Result<()> {
    let line = "cat /proc/sys/net/ipv4/ip_local_port_range /proc/sys/kernel/shm_rmid_forced | tr '\\t' ' '";
    let others = cri.shell(line);
    let before = cri.output(&others).await?;
    let mut config = cri.sandbox();
    let sysctls = &mut config.linux.get_or_insert_default().sysctls;
    sysctls.insert("net.ipv4.ip_local_port_range".into(), "2000 2999".into());
    sysctls.insert("kernel.shm_rmid_forced".into(), "1".into());
    let pod = cri.run(&config).await?;
    for _ in 0..2 {
        let line = cri.shell(line);
        assert_eq!(cri.output_in(&pod, &line).await?, "2000 2999\n1\n");
    }
    let others = cri.shell(line);
    assert_eq!(cri.output(&others).await?, before);
    Ok(())
}

async fn a_sysctl_of_the_node_is_refused(cri: &mut Cri) -> Result<()> {
    let file = "/proc/sys/kernel/pid_max";
    let before = std::fs::read_to_string(file)?;
    let mut config = cri.sandbox();
    let sysctls = &mut config.linux.get_or_insert_default().sysctls;
    sysctls.insert("kernel.pid_max".into(), "4000000".into());
    let outcome = cri.run(&config).await;
    assert_eq!(std::fs::read_to_string(file)?, before);
    let refused = outcome.err().ok_or("a sysctl of the node was set")?;
    says(&refused, &["kernel.pid_max"]);
    Ok(())
}

async fn a_stopped_pod_takes_no_containers(cri: &mut Cri) -> Result<()> {
    let pod = cri.pod().await?;
    cri.stop_pod(&pod.id).await?;
    let config = cri.shell("true");
    assert!(cri.create(&pod, &config).await.is_err());
    Ok(())
}
