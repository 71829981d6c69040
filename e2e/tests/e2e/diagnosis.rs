//! Past events and operations under way: the journal of events, `crisp ps --stuck`.

use std::io::Write as _;
use std::time::{Duration, Instant};

use crisp_e2e::{Lab, Result, Setup, needs};
use k8s_cri::v1::{RemoveContainerRequest, RemovePodSandboxRequest, StopContainerRequest};
use serde_json::Value;

/// The output of a command that must succeed.
fn output(lab: &Lab, args: &[&str]) -> Result<String> {
    let output = lab.machine.crisp(args)?;
    if output.status.success() {
        return Ok(String::from_utf8(output.stdout)?);
    }
    Err(format!("{args:?}: {}", String::from_utf8_lossy(&output.stderr)).into())
}

/// The events, in the form `ACTION NAME EXITCODE`.
fn events(lab: &Lab) -> Result<Vec<String>> {
    let format = "{{.Type}} {{.Action}} {{.Name}}{{if .ExitCode}} {{.ExitCode}}{{end}}";
    let text = output(lab, &["events", "--since", "10m", "--until", "0s", "--format", format])?;
    Ok(text.lines().map(str::to_owned).collect())
}

/// Waits for the events: those of a pod are written a moment after the response to its removal.
async fn until_events(lab: &Lab, expected: &[&str]) -> Result<()> {
    let begun = Instant::now();
    while events(lab)? != expected && begun.elapsed() < Duration::from_secs(5) {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(events(lab)?, expected);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn events_of_what_is_gone_are_there_after_the_server_was_killed_and_with_a_damaged_journal()
-> Result<()> {
    needs!("docker-registry", "busybox");
    let mut lab = Lab::start().await?;
    let (sandbox, pod) = lab.pod("gone").await?;
    let id = lab.client.launch(&pod, &lab.shell("exit 7"), &sandbox).await?;
    lab.client.wait(&id).await?;
    lab.client.runtime.remove_container(RemoveContainerRequest { container_id: id }).await?;
    let (_, stays) = lab.pod("stays").await?;
    lab.client.runtime.remove_pod_sandbox(RemovePodSandboxRequest { pod_sandbox_id: pod }).await?;
    let expected = [
        "pod create gone",
        "pod start gone",
        "container create main",
        "container start main",
        "container die main 7",
        "container destroy main",
        "pod create stays",
        "pod start stays",
        "pod die gone",
        "pod destroy gone",
    ];
    until_events(&lab, &expected).await?;
    lab.machine.kill_server();
    // A line that a server could not finish, and bytes of a damaged disk.
    let path = lab.machine.root().join("journal/events.jsonl");
    let mut file = std::fs::OpenOptions::new().append(true).open(&path)?;
    file.write_all(b"\0\xff\n{\"v\":1,\"at\":17")?;
    lab.machine.start_server().await?;
    lab.client = lab.machine.client().await?;
    lab.client.runtime.remove_pod_sandbox(RemovePodSandboxRequest { pod_sandbox_id: stays }).await?;
    let after: Vec<_> = expected.into_iter().chain(["pod die stays", "pod destroy stays"]).collect();
    until_events(&lab, &after).await?;
    let warnings = lab.machine.log().matches("damaged lines of the journal").count();
    assert_eq!(warnings, 1, "{}", lab.machine.log());
    lab.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_journal_that_cannot_be_written_harms_nothing_and_is_said_once() -> Result<()> {
    needs!("docker-registry", "busybox");
    let mut lab = Lab::start().await?;
    let folder = lab.machine.root().join("journal");
    // Reading the journal waits until the events of the pull are written.
    events(&lab)?;
    std::fs::remove_dir_all(&folder)?;
    std::fs::write(&folder, "in its place")?;
    for name in ["one", "two"] {
        let (status, _) = lab.run(name, &lab.shell("exit 3")).await?;
        assert_eq!(status.exit_code, 3);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // For pods and containers that still exist, the lists have the events.
    std::fs::remove_file(&folder)?;
    let events = events(&lab)?;
    assert_eq!(events.iter().filter(|event| *event == "container die main 3").count(), 2, "{events:?}");
    let warnings = lab.machine.log().matches("events are not kept").count();
    assert_eq!(warnings, 1, "{}", lab.machine.log());
    lab.close().await
}

/// Waits until `is_so` is true for the output of `crisp ps --stuck`.
async fn until_stuck(lab: &Lab, format: &str, is_so: impl Fn(&str) -> bool) -> Result<String> {
    let begun = Instant::now();
    loop {
        let text = output(lab, &["ps", "--stuck=100ms", "--format", format])?;
        if is_so(&text) {
            return Ok(text);
        }
        assert!(begun.elapsed() < Duration::from_secs(30), "{text}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operation_that_hangs_is_listed_with_its_stage_and_what_waits_for_it() -> Result<()> {
    needs!("docker-registry", "busybox");
    let faults = Some("start_container/monitor=hang".to_owned());
    let mut lab = Lab::start_with(Setup { faults, ..Setup::default() }).await?;
    let (sandbox, pod) = lab.pod("stuck").await?;
    let id = lab.client.create(&pod, &lab.shell("sleep 100"), &sandbox).await?;
    assert_eq!(output(&lab, &["ps", "--stuck=1m", "-q"])?, "");
    let (mut client, started) = (lab.client.clone(), id.clone());
    let start = tokio::spawn(async move { client.start(&started).await });
    let format = "{{.Operation}} {{.Kind}} {{.Name}} {{.Pod}} {{.Stage}}";
    let line = "start_container container main stuck monitor\n";
    until_stuck(&lab, format, |text| text.contains(line)).await?;
    let json: Value = serde_json::from_str(&output(&lab, &["ps", "--stuck=100ms", "-o", "json"])?)?;
    let operations = json["operations"].as_array().ok_or("no list")?;
    let is_start = |operation: &&Value| operation["operation"] == "start_container";
    let operation = operations.iter().find(is_start).ok_or("no start")?;
    assert_eq!((operation["id"].as_str(), operation["stage"].as_str()), (Some(id.as_str()), Some("monitor")));
    assert!(operation["leftNanoseconds"].as_u64() > Some(1_000_000_000), "{operation}");
    tokio::time::sleep(Duration::from_secs(1)).await;
    let now = output(&lab, &["why", "stuck"])?;
    assert!(now.contains("Now: start_container of main has been under way"), "{now}");
    // An update waits until the start has ended.
    let (mut client, updated) = (lab.client.clone(), id.clone());
    let update = tokio::spawn(async move {
        let request = k8s_cri::v1::UpdateContainerResourcesRequest {
            container_id: updated,
            linux: Some(k8s_cri::v1::LinuxContainerResources { cpu_shares: 100, ..Default::default() }),
            ..Default::default()
        };
        client.runtime.update_container_resources(request).await
    });
    let format = "{{.Operation}} {{.Stage}} {{.WaitsFor}}";
    let waits = "update_container_resources turn its turn after start_container\n";
    until_stuck(&lab, format, |text| text.contains(waits)).await?;
    // A stop cancels the start.
    lab.client.runtime.stop_container(StopContainerRequest { container_id: id, timeout: 0 }).await?;
    assert!(start.await?.is_err());
    let _ = update.await?;
    until_stuck(&lab, "{{.Operation}}", str::is_empty).await?;
    lab.close().await
}
