//! A container's states: created, running, exited, removed.

use std::time::{Duration, Instant};

use crisp_e2e::{Image, Result, says};
use k8s_cri::v1::{ContainerState, CreateContainerRequest};
use prost::Message as _;
use serde_json::json;
use tonic::Code;

use crate::cri::{Cri, log, unknown};
use crate::newer::{self, NewerContainer, NewerStatusResponse};

promises! {
    a_created_container_does_not_run: Cri, ["CreateContainer", "CreateContainerRequest.pod_sandbox_id",
        "CreateContainerRequest.config", "CreateContainerResponse.container_id", "ContainerStatus.state"],
        "A created container is in that state and its command does not run";
    a_started_container_runs: Cri, ["StartContainer", "StartContainerRequest.container_id",
        "ContainerStatus.created_at", "ContainerStatus.started_at"],
        "A started container runs, since a time not before it was created";
    exit_code_zero_is_completed: Kubernetes, ["ContainerStatus.exit_code", "ContainerStatus.reason",
        "ContainerStatus.finished_at"],
        "A container that ends with 0 is exited, Completed, at a time not before its start";
    another_exit_code_is_an_error: Kubernetes, ["ContainerStatus.exit_code", "ContainerStatus.reason"],
        "A container that ends with another code is exited with it, for the reason Error";
    a_signal_is_128_and_its_number: Kubernetes, ["ContainerStatus.exit_code"],
        "A container that a signal ended has the exit code 128 and the signal's number";
    a_command_that_cannot_start_is_named: Kubernetes, ["StartContainer", "ContainerStatus.reason",
        "ContainerStatus.message"],
        "A command that cannot be started is named in the error, and the container is exited with 128, StartError";
    an_exited_container_does_not_start_again: Cri, ["StartContainer"],
        "A container that ran is not started a second time";
    another_attempt_is_another_container: Cri, ["ContainerMetadata.name", "ContainerMetadata.attempt"],
        "The next attempt is a container of its own, with a root file system as in the image, beside the exited one";
    the_same_attempt_is_not_created_twice: Cri, ["ContainerConfig.metadata"],
        "A container with the name and attempt of one that exists is not made a second time";
    an_unknown_containers_status_is_not_found: Kubernetes, ["ContainerStatus"],
        "The status of a container that does not exist is the error NotFound";
    a_container_of_an_absent_image_is_refused: Cri, ["ContainerConfig.image"],
        "A container whose image is not on the node is refused with the image's name";
    stop_lets_a_container_end_itself: Kubernetes, ["StopContainer", "StopContainerRequest.container_id"],
        "Stop sends SIGTERM and waits: the container may clean up, and its exit code stands";
    stop_kills_at_the_end_of_the_grace_period: Cri, ["StopContainerRequest.timeout"],
        "A container that does not end within the timeout is killed, not before";
    stop_without_a_grace_period_kills: Cri, ["StopContainerRequest.timeout"],
        "Stop with the timeout 0 kills at once";
    stop_is_repeated_without_an_error: Cri, ["StopContainer"],
        "Stopping a container that has ended, was removed or never was succeeds";
    the_images_stop_signal_is_sent: Kubernetes, ["StopContainer"],
        "Stop sends the signal that the image names";
    a_containers_stop_signal_is_sent: Cri, ["ContainerConfig.stop_signal", "ContainerStatus.stop_signal"],
        "Stop sends the signal that the container's config names, before the image's, and the status has it";
    a_running_container_is_removed_by_force: Cri, ["RemoveContainer", "RemoveContainerRequest.container_id"],
        "Removing a running container ends it";
    a_container_is_removed_any_number_of_times: Cri, ["RemoveContainer"],
        "Removing a container that was removed, or never was, succeeds";
}

async fn a_created_container_does_not_run(cri: &mut Cri) -> Result<()> {
    let pod = cri.pod().await?;
    let config = cri.shell("echo runs");
    let id = cri.create(&pod, &config).await?;
    tokio::time::sleep(Duration::from_millis(100)).await;
    let status = cri.client.status(&id).await?;
    assert_eq!((status.state(), status.started_at), (ContainerState::ContainerCreated, 0));
    assert_eq!(log(&pod, &config).unwrap_or_default(), "");
    Ok(())
}

async fn a_started_container_runs(cri: &mut Cri) -> Result<()> {
    let (_pod, id) = cri.running().await?;
    let status = cri.client.status(&id).await?;
    assert_eq!((status.state(), status.finished_at), (ContainerState::ContainerRunning, 0));
    assert!(status.created_at > 0 && status.started_at >= status.created_at, "{status:?}");
    assert_eq!(cri.sh(&id, "cat /proc/1/comm").await?, "sleep\n");
    Ok(())
}

async fn exit_code_zero_is_completed(cri: &mut Cri) -> Result<()> {
    let pod = cri.pod().await?;
    let config = cri.shell("sleep 0.2");
    let status = cri.end(&pod, &config).await?;
    assert_eq!((status.exit_code, status.reason.as_str()), (0, "Completed"));
    assert!(status.finished_at >= status.started_at && status.started_at > 0, "{status:?}");
    Ok(())
}

async fn another_exit_code_is_an_error(cri: &mut Cri) -> Result<()> {
    let pod = cri.pod().await?;
    for code in [1, 7, 255] {
        let config = cri.shell(&format!("exit {code}"));
        let status = cri.end(&pod, &config).await?;
        assert_eq!((status.exit_code, status.reason.as_str()), (code, "Error"));
    }
    Ok(())
}

async fn a_signal_is_128_and_its_number(cri: &mut Cri) -> Result<()> {
    let (_pod, id) = cri.running().await?;
    // Sent from outside: the first process of a namespace is immune to signals from inside it.
    cri.stop(&id, 0).await?;
    assert_eq!(cri.client.status(&id).await?.exit_code, 128 + 9);
    Ok(())
}

async fn a_command_that_cannot_start_is_named(cri: &mut Cri) -> Result<()> {
    let pod = cri.pod().await?;
    let mut config = cri.shell("true");
    config.command = vec!["/no/such/program".into()];
    let id = cri.create(&pod, &config).await?;
    let refused = cri.client.start(&id).await.expect_err("there is no such program");
    says(&refused, &["/no/such/program"]);
    let status = cri.client.status(&id).await?;
    assert_eq!(status.state(), ContainerState::ContainerExited);
    assert_eq!((status.exit_code, status.reason.as_str()), (128, "StartError"));
    assert!(status.message.contains("/no/such/program"), "{status:?}");
    Ok(())
}

async fn an_exited_container_does_not_start_again(cri: &mut Cri) -> Result<()> {
    let pod = cri.pod().await?;
    let config = cri.shell("echo once");
    let id = cri.end(&pod, &config).await?.id;
    assert!(cri.client.start(&id).await.is_err());
    assert_eq!(cri.state(&id).await?, ContainerState::ContainerExited);
    assert_eq!(log(&pod, &config)?.lines().count(), 1);
    Ok(())
}

async fn another_attempt_is_another_container(cri: &mut Cri) -> Result<()> {
    let pod = cri.pod().await?;
    let mut config = cri.shell("test ! -e /written && touch /written");
    let first = cri.end(&pod, &config).await?;
    config.metadata.get_or_insert_default().attempt = 1;
    let second = cri.end(&pod, &config).await?;
    assert_eq!((first.exit_code, second.exit_code), (0, 0));
    assert_ne!(first.id, second.id);
    assert_eq!(cri.state(&first.id).await?, ContainerState::ContainerExited);
    assert_eq!(second.metadata, config.metadata);
    Ok(())
}

async fn the_same_attempt_is_not_created_twice(cri: &mut Cri) -> Result<()> {
    let pod = cri.pod().await?;
    let config = cri.shell("true");
    let first = cri.create(&pod, &config).await?;
    if let Ok(second) = cri.create(&pod, &config).await {
        assert_eq!(first, second);
    }
    let filter = k8s_cri::v1::ContainerFilter { pod_sandbox_id: pod.id, ..Default::default() };
    assert_eq!(crate::listing::containers(cri, filter).await?.len(), 1);
    Ok(())
}

async fn an_unknown_containers_status_is_not_found(cri: &mut Cri) -> Result<()> {
    let (_pod, removed) = cri.running().await?;
    cri.remove_container(&removed).await?;
    for container_id in [removed, unknown()] {
        let request = k8s_cri::v1::ContainerStatusRequest { container_id, verbose: false };
        let refused = cri.client.runtime.container_status(request).await.expect_err("there is none");
        assert_eq!(refused.code(), Code::NotFound, "{refused}");
    }
    Ok(())
}

async fn a_container_of_an_absent_image_is_refused(cri: &mut Cri) -> Result<()> {
    let pod = cri.pod().await?;
    let mut config = cri.shell("true");
    let absent = format!("{}/never/pushed:1", cri.registry().host);
    config.image.get_or_insert_default().image.clone_from(&absent);
    let refused = cri.create(&pod, &config).await.expect_err("the image was never pulled");
    says(&refused, &[&absent]);
    Ok(())
}

async fn stop_lets_a_container_end_itself(cri: &mut Cri) -> Result<()> {
    let config = cri.shell("trap 'echo bye; exit 3' TERM; touch /up; while true; do sleep 0.05; done");
    let (pod, id) = cri.running_as(&config).await?;
    cri.until(&id, "test -e /up").await?;
    cri.stop(&id, 10).await?;
    let status = cri.client.status(&id).await?;
    assert_eq!((status.state(), status.exit_code), (ContainerState::ContainerExited, 3));
    assert!(log(&pod, &config)?.ends_with("bye\n"));
    Ok(())
}

async fn stop_kills_at_the_end_of_the_grace_period(cri: &mut Cri) -> Result<()> {
    let config = cri.shell("trap '' TERM; touch /up; while true; do sleep 0.05; done");
    let (_pod, id) = cri.running_as(&config).await?;
    cri.until(&id, "test -e /up").await?;
    let start = Instant::now();
    cri.stop(&id, 1).await?;
    let passed = start.elapsed();
    assert!((950..5_000).contains(&passed.as_millis()), "{passed:?}");
    assert_eq!(cri.client.status(&id).await?.exit_code, 137);
    Ok(())
}

async fn stop_without_a_grace_period_kills(cri: &mut Cri) -> Result<()> {
    let config = cri.shell("trap 'exit 3' TERM; touch /up; while true; do sleep 0.05; done");
    let (_pod, id) = cri.running_as(&config).await?;
    cri.until(&id, "test -e /up").await?;
    cri.stop(&id, 0).await?;
    let status = cri.client.status(&id).await?;
    assert_eq!((status.state(), status.exit_code), (ContainerState::ContainerExited, 137));
    Ok(())
}

async fn stop_is_repeated_without_an_error(cri: &mut Cri) -> Result<()> {
    let (_pod, id) = cri.running().await?;
    cri.stop(&id, 0).await?;
    let finished = cri.client.status(&id).await?;
    cri.stop(&id, 0).await?;
    assert_eq!(cri.client.status(&id).await?, finished);
    cri.remove_container(&id).await?;
    cri.stop(&id, 0).await?;
    cri.stop(&unknown(), 0).await?;
    Ok(())
}

/// A shell that ends with 11 at SIGUSR1, with 12 at SIGTERM, with 13 at SIGUSR2.
const SIGNALS: &str = "trap 'exit 11' USR1; trap 'exit 12' TERM; trap 'exit 13' USR2; touch /up; \
    while true; do sleep 0.05; done";
/// The number in the CRI's enumeration of signals.
const USR2: i32 = 30;

async fn image_with_signal(cri: &mut Cri) -> Result<String> {
    let image = Image::busybox().config("StopSignal", json!("SIGUSR1")).build();
    cri.image(&image).await
}

async fn the_images_stop_signal_is_sent(cri: &mut Cri) -> Result<()> {
    let mut config = cri.shell(SIGNALS);
    config.image.get_or_insert_default().image = image_with_signal(cri).await?;
    let (_pod, id) = cri.running_as(&config).await?;
    cri.until(&id, "test -e /up").await?;
    cri.stop(&id, 10).await?;
    assert_eq!(cri.client.status(&id).await?.exit_code, 11);
    Ok(())
}

async fn a_containers_stop_signal_is_sent(cri: &mut Cri) -> Result<()> {
    let mut config = cri.shell(SIGNALS);
    config.image.get_or_insert_default().image = image_with_signal(cri).await?;
    let pod = cri.pod().await?;
    let request = CreateContainerRequest {
        pod_sandbox_id: pod.id.clone(),
        config: Some(config),
        sandbox_config: Some(pod.config.clone()),
    };
    let newer_fields = NewerContainer { stop_signal: USR2, ..Default::default() };
    let id = newer::create(&cri.client, &request, newer_fields).await?;
    cri.client.start(&id).await?;
    cri.until(&id, "test -e /up").await?;
    let request = k8s_cri::v1::ContainerStatusRequest { container_id: id.clone(), verbose: false };
    let answer: NewerStatusResponse =
        newer::call(&cri.client, "ContainerStatus", request.encode_to_vec()).await?;
    assert_eq!(answer.status.map(|status| status.stop_signal), Some(USR2));
    cri.stop(&id, 10).await?;
    assert_eq!(cri.client.status(&id).await?.exit_code, 13);
    Ok(())
}

async fn a_running_container_is_removed_by_force(cri: &mut Cri) -> Result<()> {
    let folder = cri.new_folder()?;
    let mut config = cri.shell("trap '' TERM; while true; do date +%s%N > /host/alive; sleep 0.05; done");
    config.mounts = vec![crate::mounts::bind(&folder, "/host")];
    let (_pod, id) = cri.running_as(&config).await?;
    cri.until(&id, "test -s /host/alive").await?;
    cri.remove_container(&id).await?;
    assert!(cri.client.status(&id).await.is_err());
    let last = std::fs::read(folder.join("alive"))?;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(std::fs::read(folder.join("alive"))?, last, "it still runs");
    Ok(())
}

async fn a_container_is_removed_any_number_of_times(cri: &mut Cri) -> Result<()> {
    let (_pod, id) = cri.running().await?;
    for _ in 0..2 {
        cri.remove_container(&id).await?;
    }
    cri.remove_container(&unknown()).await?;
    Ok(())
}
