//! The server is killed at any moment and started again.

use std::time::Duration;

use crisp_e2e::{Image, Lab, Layer, Result, needs, request};
use k8s_cri::v1::{
    ContainerState, ImageSpec, ListPodSandboxRequest, PodSandboxState, RemoveContainerRequest,
    RemoveImageRequest, StopContainerRequest,
};

#[tokio::test(flavor = "multi_thread")]
async fn running_containers_run_on_and_exits_are_not_missed() -> Result<()> {
    needs!("docker-registry", "busybox");
    let mut lab = Lab::start().await?;
    let (sandbox, pod) = lab.pod("restart").await?;
    let stays = lab.client.launch(&pod, &request::shell("stays", &lab.image, "sleep 100"), &sandbox).await?;
    let ends =
        lab.client.launch(&pod, &request::shell("ends", &lab.image, "sleep 0.3; exit 42"), &sandbox).await?;
    let created =
        lab.client.create(&pod, &request::shell("later", &lab.image, "echo late"), &sandbox).await?;
    let before = lab.client.status(&stays).await?;
    lab.machine.kill_server();
    tokio::time::sleep(Duration::from_millis(800)).await;
    lab.machine.start_server().await?;
    lab.client = lab.machine.client().await?;
    let after = lab.client.status(&stays).await?;
    assert_eq!((before.started_at, after.state()), (after.started_at, ContainerState::ContainerRunning));
    let ended = lab.client.wait(&ends).await?;
    assert_eq!(ended.exit_code, 42);
    assert!(ended.finished_at > ended.started_at);
    lab.client.start(&created).await?;
    assert_eq!(lab.client.wait(&created).await?.exit_code, 0);
    assert_eq!(lab.client.exec(&stays, &["echo", "still here"]).await?.stdout, b"still here\n"[..]);
    lab.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_in_the_middle_of_anything_it_comes_back_whole() -> Result<()> {
    needs!("docker-registry", "busybox");
    let mut lab = Lab::start().await?;
    let (sandbox, pod) = lab.pod("steady").await?;
    let steady = lab.client.launch(&pod, &lab.shell("sleep 1000"), &sandbox).await?;
    // The speed of this machine: how long one pod takes from its start to its stop.
    let began = std::time::Instant::now();
    let (measured, pod_of_measured) = lab.pod("measured").await?;
    let id = lab.client.launch(&pod_of_measured, &lab.shell("sleep 1000"), &measured).await?;
    lab.client.runtime.stop_container(StopContainerRequest { container_id: id, timeout: 0 }).await?;
    let pace = began.elapsed();
    // In each round a client starts pods without pause, and the server dies a little later.
    for round in 0..12 {
        let (mut client, machine, image) = (lab.machine.client().await?, &lab.machine, lab.image.clone());
        let sandboxes: Vec<_> = (0..50).map(|n| request::pod(machine, &format!("r{round}n{n}"))).collect();
        let busy = tokio::spawn(async move {
            for sandbox in sandboxes {
                let Ok(pod) = client.run_pod(&sandbox).await else { return };
                let container = request::shell("main", &image, "sleep 1000");
                let Ok(id) = client.launch(&pod, &container, &sandbox).await else { return };
                let stop = StopContainerRequest { container_id: id, timeout: 0 };
                if client.runtime.stop_container(stop).await.is_err() {
                    return;
                }
            }
        });
        tokio::time::sleep(pace * (round + 2) / 4).await;
        lab.machine.kill_server();
        busy.await?;
        lab.machine.start_server().await?;
        lab.client = lab.machine.client().await?;
        assert_eq!(
            lab.client.status(&steady).await?.state(),
            ContainerState::ContainerRunning,
            "round {round}"
        );
    }
    let pods =
        lab.client.runtime.list_pod_sandbox(ListPodSandboxRequest::default()).await?.into_inner().items;
    let ready = pods.iter().filter(|p| p.state() == PodSandboxState::SandboxReady).count();
    assert!(ready > 2, "no pod survived: {} known", pods.len());
    // Closing looks for leaks of unfinished pods.
    lab.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clean_stop_leaves_the_pods_running() -> Result<()> {
    needs!("docker-registry", "busybox");
    let mut lab = Lab::start().await?;
    let (sandbox, pod) = lab.pod("term").await?;
    let id = lab.client.launch(&pod, &lab.shell("sleep 1000"), &sandbox).await?;
    lab.machine.stop_server()?;
    lab.machine.start_server().await?;
    lab.client = lab.machine.client().await?;
    assert_eq!(lab.client.status(&id).await?.state(), ContainerState::ContainerRunning);
    lab.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_monitor_that_is_killed_takes_only_its_own_pod() -> Result<()> {
    needs!("docker-registry", "busybox");
    let mut lab = Lab::start().await?;
    let (sandbox, pod) = lab.pod("victim").await?;
    let victim = lab.client.launch(&pod, &lab.shell("sleep 1000"), &sandbox).await?;
    let (other_sandbox, other_pod) = lab.pod("other").await?;
    let other = lab.client.launch(&other_pod, &lab.shell("sleep 1000"), &other_sandbox).await?;
    let monitor = lab.machine.monitors(&pod);
    let monitor = monitor.first().and_then(|pid| rustix::process::Pid::from_raw(*pid)).ok_or("no monitor")?;
    rustix::process::kill_process(monitor, rustix::process::Signal::KILL)?;
    let status = lab.client.wait(&victim).await?;
    assert_ne!(status.exit_code, 0);
    assert_eq!(lab.client.status(&other).await?.state(), ContainerState::ContainerRunning);
    lab.close().await
}

/// CAP_SYS_RESOURCE, see capabilities(7).
const SYS_RESOURCE: u64 = 1 << 24;

#[tokio::test(flavor = "multi_thread")]
async fn the_oom_killer_spares_the_server_where_the_host_lets_it() -> Result<()> {
    needs!("docker-registry", "busybox");
    let mut lab = Lab::start().await?;
    let of_server =
        |name: &str| std::fs::read_to_string(format!("/proc/{}/{name}", lab.machine.server_pid()));
    let status = of_server("status")?;
    let capabilities = status.lines().find_map(|line| line.strip_prefix("CapEff:")).ok_or("no CapEff")?;
    let may = u64::from_str_radix(capabilities.trim(), 16)? & SYS_RESOURCE != 0;
    let score: i32 = of_server("oom_score_adj")?.trim().parse()?;
    let said = lab.machine.log().matches("may be chosen by the OOM killer").count();
    assert!(if may { score <= -999 && said == 0 } else { said == 1 }, "{score}, said {said} times");
    // The score must not be that of the containers too.
    let mut config = lab.shell("cat /proc/self/oom_score_adj");
    config.linux.get_or_insert_default().resources.get_or_insert_default().oom_score_adj = 500;
    assert_eq!(lab.output("score", config).await?, "500\n");
    lab.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_waits_for_a_dead_disk_at_its_start_ends_on_sigterm() -> Result<()> {
    needs!("docker-registry", "busybox");
    let mut lab = Lab::start().await?;
    lab.machine.stop_server()?;
    let folder = lab.machine.root().join("containers").join("a".repeat(64));
    std::fs::create_dir(&folder)?;
    // Opening a pipe waits for a writer, which never comes.
    let record = folder.join("container.json");
    let mode = rustix::fs::Mode::RWXU;
    rustix::fs::mknodat(rustix::fs::CWD, &record, rustix::fs::FileType::Fifo, mode, 0)?;
    assert!(lab.machine.start_server().await.is_err(), "nothing keeps it from its start");
    lab.machine.stop_server()?;
    std::fs::remove_dir_all(&folder)?;
    lab.machine.start_server().await?;
    lab.client = lab.machine.client().await?;
    lab.close().await
}

/// The folder of the layer that has `file`, below the store's folder of layers.
fn layer_with(layers: &std::path::Path, file: &str) -> Result<Option<std::path::PathBuf>> {
    for layer in std::fs::read_dir(layers)? {
        let layer = layer?.path();
        let parts = std::fs::read_dir(&layer).into_iter().flatten().flatten();
        if parts.into_iter().any(|part| part.path().join(file).exists()) {
            return Ok(Some(layer));
        }
    }
    Ok(None)
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_of_an_earlier_boot_stay_while_a_container_runs_on_them_without_their_image() -> Result<()> {
    needs!("docker-registry", "busybox");
    let mut lab = Lab::start().await?;
    let image = Image::busybox().layer(Layer::new().file("read-later", 0o644, b"still here")).build();
    let image = lab.machine.registry().push("two", "1", &image)?;
    lab.client.pull(&image).await?;
    let (sandbox, pod) = lab.pod("layers").await?;
    let id = lab.client.launch(&pod, &request::shell("main", &image, "sleep 1000"), &sandbox).await?;
    let removed = Some(ImageSpec { image, ..Default::default() });
    lab.client.images.remove_image(RemoveImageRequest { image: removed }).await?;
    lab.machine.kill_server();
    let layers = lab.machine.root().join("layers");
    let layer = layer_with(&layers, "read-later")?.ok_or("no layer has the file")?;
    // The state after a reboot: a layer that was pulled in another boot and is not used is deleted at the
    // start.
    let record = layer.join("layer.json");
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    let text = std::fs::read_to_string(&record)?;
    let aged = text.replace(boot.trim(), "an-earlier-boot");
    assert_ne!(text, aged, "the record does not name its boot");
    std::fs::write(&record, aged)?;
    lab.machine.start_server().await?;
    lab.client = lab.machine.client().await?;
    assert_eq!(lab.client.exec(&id, &["cat", "/read-later"]).await?.stdout, b"still here"[..]);
    assert!(layer.join("layer.json").exists(), "the layer is gone");
    lab.client.runtime.remove_container(RemoveContainerRequest { container_id: id }).await?;
    // The removed container was the last one that used it.
    for _ in 0..1000 {
        if layer_with(&layers, "read-later")?.is_none() {
            return lab.close().await;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Err(format!("{} stays", layer.display()).into())
}
