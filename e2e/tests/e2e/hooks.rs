//! Hooks of CDI devices, and a server that is killed while one runs.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crisp_e2e::{Lab, Result, Setup, lab::says, needs, request};
use k8s_cri::v1::{CdiDevice, ContainerConfig, LinuxContainerConfig};
use serde_json::json;

/// The folder of CDI specs, the file for the pids of hooks, and the file that lets them go on.
fn files(folder: &Path) -> (PathBuf, PathBuf, PathBuf) {
    (folder.join("cdi"), folder.join("pids"), folder.join("go"))
}

fn with_specs(folder: &Path) -> Setup {
    let args = vec!["--cdi-spec-dir".to_owned(), folder.display().to_string()];
    Setup { args, ..Setup::default() }
}

/// A device whose hook has a child in another session, and hangs until the file `go` exists.
fn write_spec(kind: &str, [specs, pids, go]: [&Path; 3]) -> Result<()> {
    std::fs::create_dir_all(specs)?;
    let line = format!(
        "root=$(sed 's/.*\"bundle\":\"\\([^\"]*\\)\".*/\\1/')/rootfs; [ -e {go} ] || {{ setsid sleep 1000 & \
         echo $! >> {pids}; echo $$ >> {pids}; wait; }}; [ {kind} != createContainer ] || touch $root/made",
        go = go.display(),
        pids = pids.display(),
    );
    let hook = json!({ "hookName": kind, "path": "/bin/sh", "args": ["sh", "-c", line], "env": ["PATH=/usr/bin:/bin"] });
    let device = json!({ "name": "0", "containerEdits": { "hooks": [hook] } });
    let spec = json!({ "cdiVersion": "0.8.0", "kind": "hooks.test/card", "devices": [device] });
    Ok(std::fs::write(specs.join("card.json"), spec.to_string())?)
}

fn with_device(lab: &Lab, line: &str) -> ContainerConfig {
    let cdi_devices = vec![CdiDevice { name: "hooks.test/card=0".into() }];
    ContainerConfig { cdi_devices, ..lab.shell(line) }
}

fn pids(file: &Path) -> Vec<String> {
    std::fs::read_to_string(file).unwrap_or_default().lines().map(str::to_owned).collect()
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < Duration::from_secs(20), "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn lives(pid: &str) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z"))
}

async fn killed_in(kind: &str) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (specs, seen, go) = files(folder.path());
    write_spec(kind, [&specs, &seen, &go])?;
    let mut lab = Lab::start_with(with_specs(&specs)).await?;
    let (sandbox, pod) = lab.pod("hooks").await?;
    let id = lab.client.create(&pod, &with_device(&lab, "ls /; sleep 1000"), &sandbox).await?;
    let mut client = lab.machine.client().await?;
    let starting = id.clone();
    let start = tokio::spawn(async move { client.start(&starting).await });
    until("the hook runs", || pids(&seen).len() == 2).await;
    lab.machine.kill_server();
    assert!(start.await?.is_err());
    let hook = pids(&seen).pop().unwrap_or_default();
    until("the hook ends with its server", || !lives(&hook)).await;
    lab.machine.start_server().await?;
    lab.client = lab.machine.client().await?;
    std::fs::write(&go, "")?;
    lab.client.start(&id).await?;
    assert!(pids(&seen).iter().all(|pid| !lives(pid)), "{:?}", pids(&seen));
    let listed = lab.client.exec(&id, &["ls", "/"]).await?.stdout;
    let made = String::from_utf8_lossy(&listed).lines().any(|line| line == "made");
    assert_eq!(made, kind == "createContainer");
    lab.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_killed_in_a_hook_leaves_nothing_and_starts_again() -> Result<()> {
    needs!("docker-registry", "busybox");
    killed_in("createContainer").await?;
    killed_in("prestart").await
}

#[tokio::test(flavor = "multi_thread")]
async fn hooks_are_refused_in_a_pod_with_users_of_its_own() -> Result<()> {
    needs!("docker-registry", "busybox");
    let folder = tempfile::tempdir()?;
    let (specs, seen, go) = files(folder.path());
    write_spec("createContainer", [&specs, &seen, &go])?;
    let mut lab = Lab::start_with(with_specs(&specs)).await?;
    let (sandbox, security) = request::pod_with_own_users(&lab.machine, "users");
    let pod = lab.client.run_pod(&sandbox).await?;
    let linux = LinuxContainerConfig { security_context: Some(security), ..Default::default() };
    let config = ContainerConfig { linux: Some(linux), ..with_device(&lab, "true") };
    let error = lab.client.create(&pod, &config, &sandbox).await.unwrap_err();
    says(&error, &["createContainer hooks", "hostUsers: true"]);
    assert!(pids(&seen).is_empty());
    lab.close().await
}
