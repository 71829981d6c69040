//! The properties of a container's processes that Kubernetes relies on.

use crisp_e2e::Result;
use k8s_cri::v1::ContainerState;

use crate::cri::{Cri, log};

promises! {
    the_command_ends_the_container: Kubernetes, ["ContainerStatus.state"],
        "A container ends with its command, and every process that it left behind ends too";
    a_containers_end_leaves_the_others: Kubernetes, ["ContainerStatus.state"],
        "The end of one container ends no other container of its pod, and the pod stays ready";
    all_output_is_there_at_the_end: Kubernetes, ["ContainerStatus.state", "ContainerConfig.log_path"],
        "When a container's status is exited, its log has all of its output";
    many_containers_run_in_a_pod: Kubernetes, ["CreateContainer"],
        "Seventy containers run in one pod at the same time";
}

async fn the_command_ends_the_container(cri: &mut Cri) -> Result<()> {
    let folder = cri.new_folder()?;
    let mut config = cri.shell(
        "(trap '' TERM HUP; while true; do date +%s%N > /host/alive; sleep 0.05; done) & \
         until test -s /host/alive; do sleep 0.02; done",
    );
    config.mounts = vec![crate::mounts::bind(&folder, "/host")];
    let pod = cri.pod().await?;
    assert_eq!(cri.end(&pod, &config).await?.exit_code, 0);
    let last = std::fs::read(folder.join("alive"))?;
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    assert_eq!(std::fs::read(folder.join("alive"))?, last, "a process of it still runs");
    Ok(())
}

async fn a_containers_end_leaves_the_others(cri: &mut Cri) -> Result<()> {
    let (pod, first) = cri.running().await?;
    let config = cri.shell("exit 1");
    cri.end(&pod, &config).await?;
    let config = cri.shell("exec sleep 1000");
    let second = cri.launch(&pod, &config).await?;
    cri.remove_container(&second).await?;
    assert_eq!(cri.state(&first).await?, ContainerState::ContainerRunning);
    assert_eq!(cri.sh(&first, "echo alive").await?, "alive\n");
    assert_eq!(cri.pod_status(&pod.id).await?.state, 0);
    Ok(())
}

async fn all_output_is_there_at_the_end(cri: &mut Cri) -> Result<()> {
    let pod = cri.pod().await?;
    for _ in 0..3 {
        let config = cri.shell("seq 5000");
        cri.end(&pod, &config).await?;
        assert_eq!(log(&pod, &config)?.lines().count(), 5000);
    }
    Ok(())
}

async fn many_containers_run_in_a_pod(cri: &mut Cri) -> Result<()> {
    let pod = cri.pod().await?;
    let mut ids = Vec::new();
    for _ in 0..70 {
        let config = cri.shell("exec sleep 1000");
        ids.push(cri.launch(&pod, &config).await?);
    }
    for id in &ids {
        assert_eq!(cri.state(id).await?, ContainerState::ContainerRunning);
    }
    Ok(())
}
