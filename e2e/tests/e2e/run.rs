//! `crisp run` next to a server and other runs, with users who stop and remove pods and who do not read.

use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crisp_e2e::machine::crisp;
use crisp_e2e::standalone::{Host, Standalone, manifest, processes_with};
use crisp_e2e::{Image, Lab, Machine, Result, Setup, needs, request};
use k8s_cri::v1::{ContainerState, PodSandboxState, PodSandboxStatusRequest};
use rustix::process::Signal;

const NONE: [&str; 0] = [];

async fn machine() -> Result<(Machine, Host, String)> {
    let machine = Machine::start_with(Setup::default()).await?;
    let image = machine.registry().push("busybox", "1", &Image::busybox().build())?;
    let host = Host::new(&machine)?;
    Ok((machine, host, image))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_logs_of_a_run_are_followed_to_its_end() -> Result<()> {
    needs!("docker-registry", "busybox", "unshare", "nsenter");
    let (machine, host, image) = machine().await?;
    let line = "for i in 1 2 3 4 5 6 7 8 9; do echo $i; sleep 0.5; done";
    let pod = manifest(&image, "  restartPolicy: Never\n", &[("web", line)]);
    let mut run = host.start("a", &pod, &NONE)?;
    run.until("prints nothing", |run| run.output().contains('1')).await?;
    // The log is in the folders that the run sees.
    let mut command = Command::new("nsenter");
    command.args(["--mount", "--target", &run.pid().to_string()]).arg(crisp());
    command.args(["--listen", "unix:///run/crisp-run/crisp.sock", "logs", "-f", "alone/web"]);
    let follower = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    assert!(run.end().await?.success(), "{}", run.errors());
    let ended = Instant::now();
    let output = tokio::task::spawn_blocking(|| follower.wait_with_output()).await??;
    let text = String::from_utf8([output.stdout, output.stderr].concat())?;
    assert!(output.status.success(), "{text}");
    assert_eq!(text, "1\n2\n3\n4\n5\n6\n7\n8\n9\n");
    assert!(ended.elapsed() < Duration::from_secs(15), "{:?}", ended.elapsed());
    drop(host);
    machine.close().await
}

/// A pod of a server with one running container; returns their ids.
async fn server_with_a_pod() -> Result<(Lab, String, String)> {
    let mut lab = Lab::start().await?;
    let (sandbox, pod) = lab.pod("precious").await?;
    let worker = request::shell("worker", &lab.image, "sleep 1000");
    let container = lab.client.launch(&pod, &worker, &sandbox).await?;
    Ok((lab, pod, container))
}

async fn assert_pod_lives(lab: &mut Lab, pod: &str, container: &str) -> Result<()> {
    lab.machine.start_server().await?;
    lab.client = lab.machine.client().await?;
    let request = PodSandboxStatusRequest { pod_sandbox_id: pod.to_owned(), verbose: false };
    let status = lab.client.runtime.pod_sandbox_status(request).await?.into_inner().status;
    assert_eq!(status.unwrap_or_default().state(), PodSandboxState::SandboxReady);
    assert_eq!(lab.client.status(container).await?.state(), ContainerState::ContainerRunning);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_folders_and_addresses_in_a_servers_configuration_are_not_a_runs() -> Result<()> {
    needs!("docker-registry", "busybox", "unshare");
    let (mut lab, pod, container) = server_with_a_pod().await?;
    lab.machine.stop_server()?;
    let host = Host::new(&lab.machine)?;
    let taken = TcpListener::bind("127.0.0.1:0")?;
    let file = lab.machine.folder().join("config.toml");
    let config = format!(
        "root = '{}'\nstate = '{}'\nlisten = 'unix://{}'\nbridge-name = '{}'\npod-cidr = '10.0.0.0/8'\nmetrics-listen = '{}'\n",
        lab.machine.root().display(),
        lab.machine.state().display(),
        lab.machine.socket().display(),
        lab.machine.bridge(),
        taken.local_addr()?,
    );
    std::fs::write(&file, config)?;
    let file = file.display().to_string();
    let mut run = host.start(
        "a",
        &manifest(&lab.image, "  restartPolicy: Never\n", &[("a", "echo done")]),
        &["--config", &file],
    )?;
    let status = run.end().await?;
    assert!(status.success() && run.output().contains("done"), "{status}\n{}", run.errors());
    assert!(!lab.machine.socket().exists());
    assert_eq!(host.temporary(), Vec::<std::path::PathBuf>::new());
    assert_pod_lives(&mut lab, &pod, &container).await?;
    lab.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_on_the_folders_of_a_server_leaves_the_servers_pods() -> Result<()> {
    needs!("docker-registry", "busybox", "unshare");
    let (mut lab, pod, container) = server_with_a_pod().await?;
    lab.machine.stop_server()?;
    let host = Host::new(&lab.machine)?;
    let folders = [
        format!("--root={}", lab.machine.root().display()),
        format!("--state={}", lab.machine.state().display()),
    ];
    let mut run =
        host.start("a", &manifest(&lab.image, "  restartPolicy: Never\n", &[("a", "echo done")]), &folders)?;
    let status = run.end().await?;
    assert!(status.success() && run.output().contains("done"), "{status}\n{}", run.errors());
    assert_pod_lives(&mut lab, &pod, &container).await?;
    lab.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_run_that_cannot_begin_leaves_no_folders() -> Result<()> {
    needs!("docker-registry", "busybox", "unshare");
    let (machine, host, image) = machine().await?;
    let first = host.start("a", &manifest(&image, "", &[("a", "echo up; sleep 1000")]), &NONE)?;
    first.until("the first does not start", |run| run.output().contains("up")).await?;
    let taken = TcpListener::bind("127.0.0.1:0")?;
    let address = taken.local_addr()?.to_string();
    let mut second =
        host.start("b", &manifest(&image, "", &[("b", "true")]), &["--metrics-listen", &address])?;
    let status = second.end().await?;
    assert!(!status.success() && second.errors().contains(&address), "{}", second.errors());
    assert_eq!(host.temporary(), Vec::<std::path::PathBuf>::new());
    drop(first);
    machine.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_second_run_left_is_removed_by_the_next() -> Result<()> {
    needs!("docker-registry", "busybox", "unshare");
    let (machine, host, image) = machine().await?;
    let first = host.start("a", &manifest(&image, "", &[("a", "echo up; sleep 1000")]), &NONE)?;
    first.until("the first does not start", |run| run.output().contains("up")).await?;
    let mark = format!("10{}", std::process::id());
    let mut second =
        host.start("b", &manifest(&image, "", &[("b", &format!("echo up; sleep {mark}"))]), &NONE)?;
    second.until("the second does not start", |run| run.output().contains("up")).await?;
    second.signal(Signal::KILL)?;
    second.end().await?;
    assert_eq!(host.temporary().len(), 2, "{:?}", host.temporary());
    assert!(!processes_with(&mark).is_empty());
    let quick = manifest(&image, "  restartPolicy: Never\n", &[("c", "true")]);
    let mut third = host.start("c", &quick, &NONE)?;
    let status = third.end().await?;
    assert!(status.success(), "{}", third.errors());
    let left = processes_with(&mark);
    assert!(left.is_empty(), "{left:?} {}", third.errors());
    assert_eq!(host.temporary(), Vec::<std::path::PathBuf>::new());
    drop(first);
    machine.close().await
}

/// /run is small and noexec on Debian, so a pod's volumes and logs are in another folder.
#[tokio::test(flavor = "multi_thread")]
async fn volumes_and_logs_are_not_where_the_sockets_are() -> Result<()> {
    needs!("docker-registry", "busybox", "unshare");
    let (machine, mut host, image) = machine().await?;
    let state = machine.folder().join("small");
    std::fs::create_dir(&state)?;
    host.prepare = format!("mount -t tmpfs -o size=16m,noexec tmpfs {} && ", state.display());
    let line = "cp /bin/busybox /data && /data/busybox yes $(printf %0999d 1) | head -c 32000000; echo; echo over; sleep 1000";
    let yaml = manifest(&image, "  volumes: [{name: data, emptyDir: {}}]\n", &[("a", line)])
        .replace("name: a,", "name: a, volumeMounts: [{name: data, mountPath: /data}],");
    let args =
        [format!("--state={}", state.display()), format!("--root={}", machine.folder().join("r").display())];
    let mut run = host.start("a", &yaml, &args)?;
    run.until("not all is printed", |run| run.output().ends_with("over\n")).await?;
    assert_eq!(run.output().lines().filter(|line| line.len() > 999).count(), 32_000, "{}", run.errors());
    // Printed output is not kept without limit.
    let logs = |old: bool| -> u64 {
        let pattern = format!("{}/r/standalone", machine.folder().display());
        let files = Command::new("find")
            .args([pattern.as_str(), "-name", if old { "*.log.1" } else { "*.log" }, "-printf", "%s\n"])
            .output();
        let text = String::from_utf8_lossy(&files.map(|o| o.stdout).unwrap_or_default()).into_owned();
        text.lines().filter_map(|size| size.parse::<u64>().ok()).sum()
    };
    run.until("the log is not rotated", |_| logs(true) > 0 && logs(false) < 11 << 20).await?;
    run.signal(Signal::INT)?;
    run.signal(Signal::INT)?;
    assert_eq!(run.end().await?.code(), Some(130), "{}", run.errors());
    machine.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_container_is_started_again_and_leaves_the_others_their_grace_period() -> Result<()> {
    needs!("docker-registry", "busybox", "unshare");
    let (machine, host, image) = machine().await?;
    let out = machine.folder().join("out");
    std::fs::create_dir(&out)?;
    let volume = format!("  volumes: [{{name: out, hostPath: {{path: '{}'}}}}]\n", out.display());
    let main = "trap 'sleep 1; echo bye > /out/bye; exit 0' TERM; echo up; while :; do sleep 0.1; done";
    let yaml = manifest(&image, &volume, &[("main", main), ("side", "echo beside; sleep 1000")])
        .replace("name: main,", "name: main, volumeMounts: [{name: out, mountPath: /out}],");
    let mut run = host.start("a", &yaml, &NONE)?;
    let is_up = |run: &Standalone, times| {
        run.output().contains("up") && run.output().matches("beside").count() == times
    };
    run.until("does not start", |run| is_up(run, 1)).await?;
    host.crisp(&["rm", "-f", "side"])?;
    run.until("side is not started again", |run| is_up(run, 2)).await?;
    assert!(!out.join("bye").exists());
    run.signal(Signal::INT)?;
    let status = run.end().await?;
    assert!(out.join("bye").exists() && status.code() == Some(130), "{status} {}", run.errors());
    machine.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_ends_when_its_pod_is_stopped_whatever_the_restart_policy() -> Result<()> {
    needs!("docker-registry", "busybox", "unshare");
    let (machine, host, image) = machine().await?;
    let line = "trap 'exit 0' TERM; echo up; while :; do sleep 0.1; done";
    let yaml = manifest(&image, "  restartPolicy: Always\n", &[("a", line), ("b", line)]);
    for command in [&["stop", "pod/alone"][..], &["rm", "-f", "pod/alone"]] {
        let mut run = host.start("a", &yaml, &NONE)?;
        run.until("does not start", |run| run.output().matches("up").count() >= 2).await?;
        host.crisp(command)?;
        // The exit code of a container that ended by itself, or was killed with its pod.
        let status = run.end().await?;
        assert!(matches!(status.code(), Some(0 | 137)), "{status} {}", run.errors());
    }
    machine.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn output_that_is_not_read_does_not_keep_a_run_from_ending() -> Result<()> {
    needs!("docker-registry", "busybox", "unshare", "sleep");
    let (machine, mut host, image) = machine().await?;
    // A pipe whose other end is open, but is not read.
    let pipe = machine.folder().join("pipe");
    host.prepare = format!("mkfifo {0} && exec 3<>{0} && exec >{0} && ", pipe.display());
    // The output has an end: if a run fails to end its pod, the disk must not fill up.
    let line = "yes $(printf %0999d 1) | head -c 100000000; sleep 1000";
    let yaml = manifest(&image, "", &[("a", line), ("b", line)]);
    let mut run = host.start("a", &yaml, &NONE)?;
    run.until("does not start", |_| host.crisp(&["ps"]).is_ok_and(|text| text.contains(" b\n"))).await?;
    run.signal(Signal::INT)?;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let begun = Instant::now();
    run.signal(Signal::INT)?;
    assert_eq!(run.end().await?.code(), Some(130), "{}", run.errors());
    assert!(run.errors().contains("killing all pods"), "{}", run.errors());
    assert!(begun.elapsed() < Duration::from_secs(20), "the grace period is 30 seconds");
    machine.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn aliases_follow_the_names_that_the_host_knows() -> Result<()> {
    needs!("docker-registry", "busybox", "unshare");
    let (machine, host, image) = machine().await?;
    let spec = "  restartPolicy: Never\n  hostAliases: [{ip: 10.9.9.9, hostnames: [elsewhere]}]\n";
    let mut run = host.start("a", &manifest(&image, spec, &[("a", "cat /etc/hosts")]), &NONE)?;
    assert!(run.end().await?.success(), "{}", run.errors());
    let text: String = run
        .output()
        .lines()
        .filter_map(|line| line.split_once("| "))
        .map(|(_, line)| format!("{line}\n"))
        .collect();
    assert_eq!(text, format!("{}10.9.9.9\telsewhere\n", std::fs::read_to_string("/etc/hosts")?));
    machine.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn no_container_starts_when_the_image_of_another_does_not_fit_the_manifest() -> Result<()> {
    needs!("docker-registry", "busybox", "unshare");
    let (machine, host, image) = machine().await?;
    let yaml = manifest(&image, "", &[("main", "echo up; sleep 1000"), ("side", "true")])
        .replace("name: side,", "name: side, securityContext: {runAsNonRoot: true},");
    let mut run = host.start("a", &yaml, &NONE)?;
    assert_eq!(run.end().await?.code(), Some(125));
    assert!(run.errors().contains("side: runAsNonRoot") && !run.output().contains("up"), "{}", run.errors());
    machine.close().await
}

/// The case of `crisp run pod.yaml 2>&1 | head -1`.
#[tokio::test(flavor = "multi_thread")]
async fn a_run_whose_output_is_closed_still_removes_its_pod() -> Result<()> {
    needs!("docker-registry", "busybox", "unshare");
    let (machine, mut host, image) = machine().await?;
    let pipe = machine.folder().join("pipe");
    host.prepare = format!("mkfifo {0} && exec 3<>{0} >{0} 2>&1 3<&- && ", pipe.display());
    let yaml = manifest(&image, "  restartPolicy: Never\n", &[("a", "exit 3"), ("b", "echo up; exit 4")]);
    let status = host.start("a", &yaml, &NONE)?.end().await?;
    assert!(matches!(status.code(), Some(3 | 4)), "{status}");
    assert_eq!(std::fs::read_dir(host.lib().join("crisp-run/pods"))?.count(), 0);
    machine.close().await
}
