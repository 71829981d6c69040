//! Monitors of earlier releases under the present server: their pods run on, and can be used and taken down.

use std::path::PathBuf;
use std::time::Duration;

use crisp_e2e::scenario::parse_log;
use crisp_e2e::{Lab, Result, Setup, needs, request};
use k8s_cri::v1::{ContainerState, RemoveContainerRequest, ReopenContainerLogRequest, StopContainerRequest};

/// The `crisp` of earlier releases, as a list with colons.
const SERVERS: &str = "CRISP_EARLIER_SERVERS";

const COUNTS: &str = "trap 'exit 9' TERM; i=0; while :; do i=$((i+1)); echo line $i; sleep 0.01; done";

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs builds of earlier releases: run e2e/old-monitor.sh"]
async fn pods_of_earlier_releases_are_taken_over() -> Result<()> {
    needs!("docker-registry", "busybox");
    let servers = std::env::var_os(SERVERS).ok_or("no servers of earlier releases are given")?;
    for server in std::env::split_paths(&servers) {
        taken_over(server.clone()).await.map_err(|error| format!("{}: {error}", server.display()))?;
        println!("{}: started, executed, rotated, stopped, removed", server.display());
    }
    Ok(())
}

async fn taken_over(server: PathBuf) -> Result<()> {
    let mut lab = Lab::start_with(Setup { earlier: Some(server), ..Setup::default() }).await?;
    let (sandbox, pod) = lab.pod("old").await?;
    let runs = lab.client.launch(&pod, &request::shell("runs", &lab.image, COUNTS), &sandbox).await?;
    let ends =
        lab.client.launch(&pod, &request::shell("ends", &lab.image, "sleep 1; exit 42"), &sandbox).await?;
    let before = lab.client.status(&runs).await?;
    lab.machine.kill_server();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    lab.machine.start_present_server().await?;
    lab.client = lab.machine.client().await?;
    let after = lab.client.status(&runs).await?;
    assert_eq!((before.started_at, ContainerState::ContainerRunning), (after.started_at, after.state()));
    assert_eq!(lab.client.wait(&ends).await?.exit_code, 42);
    assert_eq!(lab.client.exec(&runs, &["echo", "alive"]).await?.stdout, b"alive\n"[..]);
    let failed = lab.client.exec(&runs, &["sh", "-c", "echo bad >&2; exit 3"]).await?;
    assert_eq!((failed.exit_code, &failed.stderr[..]), (3, &b"bad\n"[..]));
    rotates(&mut lab, &runs).await?;
    let line = "cat /proc/self/mounts >/dev/null && hostname && exit 7";
    let new = lab.client.launch(&pod, &request::shell("new", &lab.image, line), &sandbox).await?;
    assert_eq!(lab.client.wait(&new).await?.exit_code, 7);
    assert_eq!(lab.machine.container_log("old", "new")?.lines().count(), 1);
    lab.client
        .runtime
        .stop_container(StopContainerRequest { container_id: runs.clone(), timeout: 10 })
        .await?;
    assert_eq!(lab.client.status(&runs).await?.exit_code, 9);
    for container_id in [runs, ends, new] {
        lab.client.runtime.remove_container(RemoveContainerRequest { container_id }).await?;
    }
    // Stops and removes the pod, and finds what is left of it.
    lab.close().await
}

/// No line is lost, or twice there, when a log is rotated.
async fn rotates(lab: &mut Lab, id: &str) -> Result<()> {
    let file = lab.machine.logs().join("old/runs.log");
    let old = file.with_extension("log.1");
    std::fs::rename(&file, &old)?;
    let reopen = ReopenContainerLogRequest { container_id: id.to_owned() };
    lab.client.runtime.reopen_container_log(reopen).await?;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let text = [std::fs::read_to_string(&old)?, std::fs::read_to_string(&file)?];
    let all = parse_log(&text[0])? + &parse_log(&text[1])?;
    assert!(!text[1].is_empty(), "the new log is empty");
    let expected: String = (1..=all.lines().count()).map(|i| format!("line {i}\n")).collect();
    assert!(all == expected, "{all}");
    Ok(())
}
