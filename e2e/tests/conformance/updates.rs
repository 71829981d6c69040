//! Changes of limits while a container runs.

use crisp_e2e::Result;
use k8s_cri::v1::{ContainerState, LinuxContainerResources, UpdateContainerResourcesRequest};
use prost::Message as _;
use tonic::Status;

use crate::cri::{Cri, limited, unknown};
use crate::newer::{self, Nothing, UpdatePod};
use crate::resources::{CPU, MEMORY, SHARES, cgroup_file, is_v2, with_limits};

promises! {
    limits_are_updated: Kubernetes, ["UpdateContainerResources", "UpdateContainerResourcesRequest.container_id",
        "UpdateContainerResourcesRequest.linux"],
        "Memory, CPU time, shares and CPUs of a running container change at once";
    what_is_not_given_stays: Cri, ["UpdateContainerResourcesRequest.linux"],
        "An update of one limit leaves the others";
    a_containers_status_has_its_limits: Kubernetes, ["ContainerStatus.resources", "ContainerResources.linux",
        "LinuxContainerResources.memory_limit_in_bytes", "LinuxContainerResources.cpu_quota"],
        "A container's status has the limits that it has now, for in-place resize";
    a_created_container_is_updated: Cri, ["UpdateContainerResources"],
        "The limits of a container that was not started change before it starts";
    an_update_that_the_kernel_refuses_changes_nothing: Cri, ["UpdateContainerResources"],
        "An update that fails is an error and leaves the limits as they were";
    an_exited_or_unknown_container_is_not_updated: Cri, ["UpdateContainerResources"],
        "An update of a container that has ended or does not exist is an error",
        containerd: "an exited container was updated";
    the_oom_score_is_updated: Cri, ["UpdateContainerResourcesRequest.linux", "LinuxContainerResources.oom_score_adj"],
        "An update of the OOM score reaches running processes, later ones, and the status",
        containerd: "the first process has its old score";
    annotations_of_an_update_are_taken: Cri, ["UpdateContainerResourcesRequest.annotations"],
        "An update with annotations that the runtime does not know is made";
    a_pods_resources_are_updated: Cri, ["UpdatePodSandboxResources", "UpdatePodSandboxResourcesRequest.pod_sandbox_id",
        "UpdatePodSandboxResourcesRequest.resources"],
        "The sums of a pod's resources are taken for a ready pod, and are an error for an unknown one";
}

async fn update(cri: &mut Cri, id: &str, linux: LinuxContainerResources) -> Result<(), Status> {
    let request =
        UpdateContainerResourcesRequest { container_id: id.into(), linux: Some(linux), ..Default::default() };
    cri.client.runtime.update_container_resources(request).await.map(drop)
}

fn small() -> LinuxContainerResources {
    LinuxContainerResources {
        memory_limit_in_bytes: 32 << 20,
        cpu_quota: 50_000,
        cpu_period: 100_000,
        cpu_shares: 512,
        ..Default::default()
    }
}

/// Reads memory, CPU time and shares from the cgroup.
fn limits(id: &str) -> Result<[String; 3]> {
    Ok([cgroup_file(id, &MEMORY)?, cgroup_file(id, &CPU)?, cgroup_file(id, &SHARES)?])
}

fn cpu(quota: u32) -> String {
    if is_v2() { format!("{quota} 100000") } else { quota.to_string() }
}

async fn limits_are_updated(cri: &mut Cri) -> Result<()> {
    let id = with_limits(cri, small()).await?;
    let before = limits(&id)?;
    let new = LinuxContainerResources {
        memory_limit_in_bytes: 48 << 20,
        cpu_quota: 80_000,
        cpu_period: 100_000,
        cpu_shares: 2048,
        cpuset_cpus: "0".into(),
        ..Default::default()
    };
    update(cri, &id, new).await?;
    let after = limits(&id)?;
    assert_eq!((&after[0], &after[1]), (&(48 << 20).to_string(), &cpu(80_000)));
    assert!(after[2].parse::<u32>()? > before[2].parse::<u32>()?, "{before:?} {after:?}");
    assert_eq!(cri.sh(&id, "grep Cpus_allowed_list /proc/1/status").await?.trim(), "Cpus_allowed_list:\t0");
    Ok(())
}

async fn what_is_not_given_stays(cri: &mut Cri) -> Result<()> {
    let id = with_limits(cri, small()).await?;
    let [_, cpu, shares] = limits(&id)?;
    let memory = LinuxContainerResources { memory_limit_in_bytes: 40 << 20, ..Default::default() };
    update(cri, &id, memory).await?;
    assert_eq!(limits(&id)?, [(40 << 20).to_string(), cpu, shares]);
    Ok(())
}

async fn a_containers_status_has_its_limits(cri: &mut Cri) -> Result<()> {
    let id = with_limits(cri, small()).await?;
    let seen = |status: k8s_cri::v1::ContainerStatus| {
        let linux = status.resources.and_then(|resources| resources.linux).unwrap_or_default();
        (linux.memory_limit_in_bytes, linux.cpu_quota, linux.cpu_period, linux.cpu_shares)
    };
    assert_eq!(seen(cri.client.status(&id).await?), (32 << 20, 50_000, 100_000, 512));
    let new = LinuxContainerResources { memory_limit_in_bytes: 40 << 20, cpu_quota: 60_000, ..small() };
    update(cri, &id, new).await?;
    assert_eq!(seen(cri.client.status(&id).await?), (40 << 20, 60_000, 100_000, 512));
    Ok(())
}

async fn a_created_container_is_updated(cri: &mut Cri) -> Result<()> {
    let pod = cri.pod().await?;
    let config = limited(cri.shell("exec sleep 1000"), small());
    let id = cri.create(&pod, &config).await?;
    let new = LinuxContainerResources { memory_limit_in_bytes: 44 << 20, ..Default::default() };
    update(cri, &id, new).await?;
    cri.client.start(&id).await?;
    assert_eq!(cgroup_file(&id, &MEMORY)?, (44 << 20).to_string());
    Ok(())
}

async fn an_update_that_the_kernel_refuses_changes_nothing(cri: &mut Cri) -> Result<()> {
    let id = with_limits(cri, small()).await?;
    let before = limits(&id)?;
    let impossible = LinuxContainerResources { cpuset_cpus: "8000".into(), ..small() };
    assert!(update(cri, &id, impossible).await.is_err());
    assert_eq!(limits(&id)?, before);
    let status = cri.client.status(&id).await?.resources.and_then(|resources| resources.linux);
    assert_eq!(status.map(|linux| linux.cpuset_cpus), Some(String::new()));
    Ok(())
}

async fn an_exited_or_unknown_container_is_not_updated(cri: &mut Cri) -> Result<()> {
    let pod = cri.pod().await?;
    let config = cri.shell("true");
    let exited = cri.end(&pod, &config).await?;
    assert_eq!(exited.state(), ContainerState::ContainerExited);
    assert!(update(cri, &unknown(), small()).await.is_err());
    assert!(update(cri, &exited.id, small()).await.is_err(), "an exited container was updated");
    Ok(())
}

async fn the_oom_score_is_updated(cri: &mut Cri) -> Result<()> {
    let start = LinuxContainerResources { oom_score_adj: 300, ..small() };
    let pod = cri.pod().await?;
    // The second process chooses its own score.
    let line = "(echo 700 > /proc/self/oom_score_adj; exec sleep 1000) & sleep 1000 & exec sleep 1000";
    let id = cri.create(&pod, &limited(cri.shell(line), start)).await?;
    cri.client.start(&id).await?;
    const SCORES: &str =
        "for p in /proc/[0-9]*; do grep -q sleep $p/comm && cat $p/oom_score_adj; done | sort | uniq -c";
    cri.until(&id, "test $(grep -l sleep /proc/[0-9]*/comm | wc -l) = 3").await?;
    cri.until(&id, "grep -qx 700 /proc/[0-9]*/oom_score_adj").await?;
    update(cri, &id, LinuxContainerResources { oom_score_adj: 450, ..Default::default() }).await?;
    let first = cri.sh(&id, "cat /proc/1/oom_score_adj").await?;
    assert_eq!(first, "450\n", "the first process has its old score");
    let scores = cri.sh(&id, SCORES).await?;
    assert_eq!(scores.split_whitespace().collect::<Vec<_>>(), ["2", "450", "1", "700"]);
    assert_eq!(cri.sh(&id, "cat /proc/self/oom_score_adj").await?, "450\n");
    // The first process keeps a score of its own too.
    cri.sh(&id, "echo 800 > /proc/1/oom_score_adj").await?;
    update(cri, &id, LinuxContainerResources { oom_score_adj: 500, ..Default::default() }).await?;
    let scores = cri.sh(&id, SCORES).await?;
    assert_eq!(scores.split_whitespace().collect::<Vec<_>>(), ["1", "500", "1", "700", "1", "800"]);
    // 0 is no value.
    update(cri, &id, LinuxContainerResources { cpu_shares: 256, ..Default::default() }).await?;
    assert_eq!(cri.sh(&id, "cat /proc/self/oom_score_adj").await?, "500\n");
    let linux = cri.client.status(&id).await?.resources.and_then(|resources| resources.linux);
    assert_eq!(linux.map(|linux| linux.oom_score_adj), Some(500));
    Ok(())
}

async fn annotations_of_an_update_are_taken(cri: &mut Cri) -> Result<()> {
    let id = with_limits(cri, small()).await?;
    let request = UpdateContainerResourcesRequest {
        container_id: id.clone(),
        linux: Some(LinuxContainerResources { memory_limit_in_bytes: 36 << 20, ..Default::default() }),
        annotations: [("example.org/how".to_owned(), "gently".to_owned())].into(),
        ..Default::default()
    };
    cri.client.runtime.update_container_resources(request).await?;
    assert_eq!(cgroup_file(&id, &MEMORY)?, (36 << 20).to_string());
    Ok(())
}

async fn a_pods_resources_are_updated(cri: &mut Cri) -> Result<()> {
    let pod = cri.pod().await?;
    let sums =
        |pod_sandbox_id: String| UpdatePod { pod_sandbox_id, overhead: None, resources: Some(small()) };
    let rpc = "UpdatePodSandboxResources";
    newer::call::<Nothing>(&cri.client, rpc, sums(pod.id).encode_to_vec()).await?;
    let unknown = newer::call::<Nothing>(&cri.client, rpc, sums(unknown()).encode_to_vec()).await;
    assert!(unknown.is_err());
    Ok(())
}
