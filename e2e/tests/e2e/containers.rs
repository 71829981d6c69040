//! The life of a container: creation, exit codes, signals, stop, removal.

use std::time::{Duration, Instant};

use crisp_e2e::{Image, Lab, Layer, Result, needs, request};
use k8s_cri::v1::{
    ContainerFilter, ContainerState, ListContainersRequest, RemoveContainerRequest, StopContainerRequest,
};
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn exit_codes_and_signals_are_told() -> Result<()> {
    needs!("docker-registry", "busybox");
    let mut lab = Lab::start().await?;
    for (name, line, code, reason) in [
        ("zero", "exit 0", 0, "Completed"),
        ("seven", "exit 7", 7, "Error"),
        ("killed", "kill -9 $$", 137, "Error"),
        ("terminated", "kill -15 $$; sleep 1", 143, "Error"),
    ] {
        let (status, _) = lab.run(name, &lab.shell(line)).await?;
        // PID 1 of a namespace is immune to signals from inside it.
        let expected = if name == "killed" || name == "terminated" { [0, code] } else { [code, code] };
        assert!(expected.contains(&status.exit_code), "{name}: {status:?}");
        if status.exit_code == code {
            assert_eq!(status.reason, reason, "{name}");
        }
        assert!(
            status.created_at <= status.started_at && status.started_at <= status.finished_at,
            "{status:?}"
        );
    }
    lab.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_asks_first_and_kills_at_the_deadline() -> Result<()> {
    needs!("docker-registry", "busybox");
    let mut lab = Lab::start().await?;
    let (sandbox, pod) = lab.pod("stop").await?;
    let polite = "trap 'echo bye; exit 3' TERM; while true; do sleep 0.05; done";
    let id = lab.client.launch(&pod, &request::shell("polite", &lab.image, polite), &sandbox).await?;
    tokio::time::sleep(Duration::from_millis(200)).await;
    stop(&mut lab, &id, 10).await?;
    assert_eq!(lab.client.status(&id).await?.exit_code, 3);
    assert_eq!(lab.machine.container_log("stop", "polite")?, "bye\n");
    let deaf = "trap '' TERM; while true; do sleep 0.05; done";
    let id = lab.client.launch(&pod, &request::shell("deaf", &lab.image, deaf), &sandbox).await?;
    tokio::time::sleep(Duration::from_millis(200)).await;
    let start = Instant::now();
    stop(&mut lab, &id, 1).await?;
    assert!(start.elapsed() > Duration::from_millis(900), "{:?}", start.elapsed());
    assert_eq!(lab.client.status(&id).await?.exit_code, 137);
    let id = lab.client.launch(&pod, &request::shell("deaf2", &lab.image, deaf), &sandbox).await?;
    // If 0 meant the default timeout, this would take longer.
    tokio::time::timeout(Duration::from_secs(8), stop(&mut lab, &id, 0)).await??;
    assert_eq!(lab.client.status(&id).await?.exit_code, 137);
    stop(&mut lab, &id, 0).await?;
    lab.close().await
}

async fn stop(lab: &mut Lab, id: &str, timeout: i64) -> Result<()> {
    lab.client.runtime.stop_container(StopContainerRequest { container_id: id.into(), timeout }).await?;
    assert_eq!(lab.client.status(id).await?.state(), ContainerState::ContainerExited);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_images_stop_signal_is_used() -> Result<()> {
    needs!("docker-registry", "busybox");
    let mut lab = Lab::start().await?;
    // A signal of systemd: the real-time signal with number 37.
    for (name, signal, trapped) in [("usr1", "SIGUSR1", "USR1"), ("rtmin3", "SIGRTMIN+3", "37")] {
        let image = Image::busybox().config("StopSignal", json!(signal)).build();
        let image = lab.machine.registry().push(name, "1", &image)?;
        lab.client.pull(&image).await?;
        let (sandbox, pod) = lab.pod(name).await?;
        let line = format!("trap 'exit 11' {trapped}; trap 'exit 12' TERM; while true; do sleep 0.05; done");
        let id = lab.client.launch(&pod, &request::shell("main", &image, &line), &sandbox).await?;
        tokio::time::sleep(Duration::from_millis(200)).await;
        stop(&mut lab, &id, 10).await?;
        assert_eq!(lab.client.status(&id).await?.exit_code, 11, "{signal}");
    }
    lab.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_are_filtered_and_removal_is_final() -> Result<()> {
    needs!("docker-registry", "busybox");
    let mut lab = Lab::start().await?;
    let (sandbox, pod) = lab.pod("list").await?;
    let mut first = request::shell("first", &lab.image, "sleep 100");
    first.labels.insert("tier".into(), "web".into());
    let first = lab.client.launch(&pod, &first, &sandbox).await?;
    let second =
        lab.client.create(&pod, &request::shell("second", &lab.image, "sleep 100"), &sandbox).await?;
    let list = async |lab: &mut Lab, filter: ContainerFilter| -> Result<Vec<String>> {
        let request = ListContainersRequest { filter: Some(filter) };
        let containers = lab.client.runtime.list_containers(request).await?.into_inner().containers;
        Ok(containers.into_iter().map(|c| c.id).collect())
    };
    let by_label =
        ContainerFilter { label_selector: [("tier".into(), "web".into())].into(), ..Default::default() };
    assert_eq!(list(&mut lab, by_label).await?, std::slice::from_ref(&first));
    let created = k8s_cri::v1::ContainerStateValue { state: ContainerState::ContainerCreated.into() };
    let by_state = ContainerFilter { state: Some(created), ..Default::default() };
    assert_eq!(list(&mut lab, by_state).await?, std::slice::from_ref(&second));
    let by_pod = ContainerFilter { pod_sandbox_id: pod.clone(), ..Default::default() };
    assert_eq!(list(&mut lab, by_pod).await?.len(), 2);
    // A running container is killed and removed; removing an unknown one is not an error.
    for id in [&first, &first, &second] {
        lab.client.runtime.remove_container(RemoveContainerRequest { container_id: id.clone() }).await?;
    }
    assert!(lab.client.status(&first).await.is_err());
    assert_eq!(list(&mut lab, ContainerFilter::default()).await?, Vec::<String>::new());
    lab.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_of_one_static_file_runs() -> Result<()> {
    needs!("docker-registry", "busybox");
    let mut lab = Lab::start().await?;
    let program = std::fs::read("/bin/busybox")?;
    let image = Image::new()
        .layer(Layer::new().file("busybox", 0o755, &program))
        .config("Entrypoint", json!(["/busybox", "echo"]))
        .config("Cmd", json!(["from", "scratch"]))
        .build();
    let image = lab.machine.registry().push("scratch", "1", &image)?;
    lab.client.pull(&image).await?;
    let log = lab.output("scratch", request::container("main", &image, &[])).await?;
    assert_eq!(log, "from scratch\n");
    lab.close().await
}
