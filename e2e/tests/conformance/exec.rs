//! ExecSync, which kubelet's probes and hooks use.

use std::time::{Duration, Instant};

use crisp_e2e::Result;
use k8s_cri::v1::{ExecSyncRequest, ExecSyncResponse, KeyValue, LinuxContainerSecurityContext};
use tonic::{Code, Status};

use crate::cri::{Cri, secured, unknown};

promises! {
    output_errors_and_exit_code_come_apart: Cri, ["ExecSync", "ExecSyncRequest.container_id", "ExecSyncRequest.cmd",
        "ExecSyncResponse.stdout", "ExecSyncResponse.stderr", "ExecSyncResponse.exit_code"],
        "A command's output, errors and exit code come apart; a code other than 0 is no error of the call";
    output_is_binary: Cri, ["ExecSyncResponse.stdout"],
        "Output comes back byte for byte";
    a_command_that_is_missing_fails: Kubernetes, ["ExecSync"],
        "A command that cannot be started fails, and never looks like a success";
    a_timeout_kills_the_command: Cri, ["ExecSyncRequest.timeout"],
        "A command that takes longer than the timeout is killed and the call is the error DeadlineExceeded";
    no_timeout_waits: Cri, ["ExecSyncRequest.timeout"],
        "With the timeout 0 a command runs to its end";
    output_is_cut_at_16_megabytes: Cri, ["ExecSyncResponse.stdout", "ExecSyncResponse.stderr"],
        "What is more than 16 MB of output or errors is dropped and the command goes on to its end",
        containerd: "trying to send message larger than max";
    a_command_has_no_input: Cri, ["ExecSync"],
        "A command reads the end of its input at once";
    a_command_runs_as_the_container_does: Kubernetes, ["ExecSync"],
        "A command has the container's user, environment, working folder, root, namespaces and privileges";
    a_command_of_an_exited_container_is_refused: Cri, ["ExecSync"],
        "A command in a container that does not run is refused";
    a_command_of_an_unknown_container_is_not_found: Kubernetes, ["ExecSync"],
        "A command in a container that does not exist is the error NotFound";
    commands_run_side_by_side: Kubernetes, ["ExecSync"],
        "Commands in one container run at the same time";
    the_containers_end_ends_its_commands: Kubernetes, ["ExecSync"],
        "When the container ends, so do the commands in it";
}

async fn exec(cri: &mut Cri, id: &str, line: &str, timeout: i64) -> Result<ExecSyncResponse, Status> {
    let cmd = ["sh", "-c", line].map(str::to_owned).to_vec();
    let request = ExecSyncRequest { container_id: id.into(), cmd, timeout };
    Ok(cri.client.runtime.exec_sync(request).await?.into_inner())
}

async fn output_errors_and_exit_code_come_apart(cri: &mut Cri) -> Result<()> {
    let (_pod, id) = cri.running().await?;
    let answer = exec(cri, &id, "echo out; echo err >&2; exit 5", 10).await?;
    assert_eq!((&answer.stdout[..], &answer.stderr[..], answer.exit_code), (&b"out\n"[..], &b"err\n"[..], 5));
    Ok(())
}

async fn output_is_binary(cri: &mut Cri) -> Result<()> {
    let (_pod, id) = cri.running().await?;
    let line = "i=0; while [ $i -lt 256 ]; do printf \"\\\\x$(printf %02x $i)\"; i=$((i+1)); done";
    let all: Vec<u8> = (0..=255).collect();
    assert_eq!(exec(cri, &id, line, 10).await?.stdout, all);
    Ok(())
}

async fn a_command_that_is_missing_fails(cri: &mut Cri) -> Result<()> {
    let (_pod, container_id) = cri.running().await?;
    let request = ExecSyncRequest { container_id, cmd: vec!["/no/such/program".into()], timeout: 10 };
    match cri.client.runtime.exec_sync(request).await {
        Ok(answer) => assert_ne!(answer.into_inner().exit_code, 0),
        Err(status) => crisp_e2e::says(&status, &["/no/such/program"]),
    }
    Ok(())
}

async fn a_timeout_kills_the_command(cri: &mut Cri) -> Result<()> {
    let (_pod, id) = cri.running().await?;
    let start = Instant::now();
    let refused = exec(cri, &id, "exec sleep 54321", 1).await.expect_err("it takes longer");
    let passed = start.elapsed();
    assert_eq!(refused.code(), Code::DeadlineExceeded, "{refused}");
    assert!((900..6_000).contains(&passed.as_millis()), "{passed:?}");
    cri.until(&id, "! cat /proc/*/cmdline | tr '\\0' ' ' | grep -q '[s]leep 54321'").await?;
    Ok(())
}

async fn no_timeout_waits(cri: &mut Cri) -> Result<()> {
    let (_pod, id) = cri.running().await?;
    let answer = exec(cri, &id, "sleep 1.5; echo over", 0).await?;
    assert_eq!(answer.stdout, b"over\n");
    Ok(())
}

async fn output_is_cut_at_16_megabytes(cri: &mut Cri) -> Result<()> {
    const LIMIT: usize = 16 << 20;
    let (_pod, id) = cri.running().await?;
    for stream in ["", ">&2"] {
        let line = format!("head -c 18000000 /dev/zero {stream}; touch /over; exit 3");
        let answer = exec(cri, &id, &line, 30).await?;
        let length = answer.stdout.len().max(answer.stderr.len());
        // The CRI says 16MB, which may be decimal or binary.
        assert!((16_000_000..=LIMIT).contains(&length), "{length} bytes");
        assert_eq!(answer.exit_code, 3);
        cri.sh(&id, "rm /over").await?;
    }
    Ok(())
}

async fn a_command_has_no_input(cri: &mut Cri) -> Result<()> {
    let (_pod, id) = cri.running().await?;
    assert_eq!(exec(cri, &id, "cat; echo over", 10).await?.stdout, b"over\n");
    Ok(())
}

async fn a_command_runs_as_the_container_does(cri: &mut Cri) -> Result<()> {
    let user = |value| Some(k8s_cri::v1::Int64Value { value });
    let context = LinuxContainerSecurityContext {
        run_as_user: user(1000),
        run_as_group: user(2000),
        supplemental_groups: vec![3000],
        no_new_privs: true,
        ..Default::default()
    };
    let line = "id; env | sort; pwd; hostname; for n in mnt net pid ipc uts user cgroup; do readlink /proc/self/ns/$n; done; \
        grep -E 'Cap|NoNewPrivs|Seccomp:' /proc/self/status; cat /proc/self/oom_score_adj";
    let mut config =
        secured(cri.shell(&format!("export -n PWD SHLVL OLDPWD; {line}; exec sleep 1000")), context);
    config.envs = vec![KeyValue { key: "KIND".into(), value: "of the container".into() }];
    config.working_dir = "/etc".into();
    let (pod, id) = cri.running_as(&config).await?;
    let own = cri.sh(&id, &format!("export -n PWD SHLVL OLDPWD; {line}")).await?;
    cri.until(&id, "test $(cat /proc/1/comm) = sleep").await?;
    assert_eq!(own, crisp_e2e::scenario::parse_log(&crate::cri::log(&pod, &config)?)?);
    assert!(own.contains("uid=1000") && own.contains("KIND=of the container"), "{own}");
    Ok(())
}

async fn a_command_of_an_exited_container_is_refused(cri: &mut Cri) -> Result<()> {
    let pod = cri.pod().await?;
    let config = cri.shell("true");
    let created = cri.create(&pod, &config).await?;
    let exited = cri.shell("true");
    let exited = cri.end(&pod, &exited).await?.id;
    for id in [created, exited] {
        assert!(exec(cri, &id, "true", 10).await.is_err());
    }
    Ok(())
}

async fn a_command_of_an_unknown_container_is_not_found(cri: &mut Cri) -> Result<()> {
    let refused = exec(cri, &unknown(), "true", 10).await.expect_err("there is no such container");
    assert_eq!(refused.code(), Code::NotFound, "{refused}");
    Ok(())
}

async fn commands_run_side_by_side(cri: &mut Cri) -> Result<()> {
    let (_pod, id) = cri.running().await?;
    let (mut one, mut other) = (cri.client.clone(), cri.client.clone());
    // Each command waits for the other.
    let first = ["sh", "-c", "touch /one; until test -e /other; do sleep 0.02; done; echo 1"];
    let second = ["sh", "-c", "touch /other; until test -e /one; do sleep 0.02; done; echo 2"];
    let (first, second) = tokio::join!(one.exec(&id, &first), other.exec(&id, &second));
    assert_eq!((first?.stdout, second?.stdout), (b"1\n".to_vec(), b"2\n".to_vec()));
    Ok(())
}

async fn the_containers_end_ends_its_commands(cri: &mut Cri) -> Result<()> {
    let (_pod, id) = cri.running().await?;
    let mut client = cri.client.clone();
    let container = id.clone();
    let command =
        tokio::spawn(
            async move { client.exec(&container, &["sh", "-c", "touch /started; exec sleep 9"]).await },
        );
    cri.until(&id, "test -e /started").await?;
    let start = Instant::now();
    cri.stop(&id, 0).await?;
    let answer = command.await?;
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    assert!(answer.map_or(true, |answer| answer.exit_code == 137));
    Ok(())
}
