//! ExecSync.

use std::time::{Duration, Instant};

use crisp_e2e::{Lab, Result, needs};
use k8s_cri::v1::ExecSyncRequest;
use tonic::Code;

#[tokio::test(flavor = "multi_thread")]
async fn output_and_exit_code_come_back() -> Result<()> {
    needs!("docker-registry", "busybox");
    let mut lab = Lab::start().await?;
    let (sandbox, pod) = lab.pod("exec").await?;
    let id = lab.client.launch(&pod, &lab.shell("sleep 100"), &sandbox).await?;
    let answer = lab.client.exec(&id, &["sh", "-c", "echo out; echo err >&2; exit 5"]).await?;
    assert_eq!((&answer.stdout[..], &answer.stderr[..], answer.exit_code), (&b"out\n"[..], &b"err\n"[..], 5));
    let inside = lab
        .client
        .exec(&id, &["sh", "-c", "hostname; ls /proc/self/fd | tr '\\n' ' '; cat /proc/1/comm"])
        .await?;
    assert_eq!(String::from_utf8(inside.stdout.to_vec())?, "exec\n0 1 2 3 sleep\n");
    let missing = lab.client.exec(&id, &["/no/such/program"]).await;
    match missing {
        Err(status) => crisp_e2e::says(&status, &["/no/such/program"]),
        Ok(answer) => return Err(format!("{answer:?}").into()),
    }
    lab.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_timeout_kills_everything_it_started() -> Result<()> {
    needs!("docker-registry", "busybox");
    let mut lab = Lab::start().await?;
    let (sandbox, pod) = lab.pod("timeout").await?;
    let id = lab.client.launch(&pod, &lab.shell("sleep 100"), &sandbox).await?;
    let cmd = ["sh", "-c", "sleep 77 & sleep 77"].map(ToOwned::to_owned).to_vec();
    let start = Instant::now();
    let answer =
        lab.client.runtime.exec_sync(ExecSyncRequest { container_id: id.clone(), cmd, timeout: 1 }).await;
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    assert_eq!(answer.err().map(|s| s.code()), Some(Code::DeadlineExceeded));
    let left = lab.client.exec(&id, &["sh", "-c", "ps | grep -c '[s]leep 77'"]).await?;
    assert_eq!(String::from_utf8(left.stdout.to_vec())?.trim(), "0");
    lab.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grandchild_that_keeps_the_pipe_does_not_hold_the_answer() -> Result<()> {
    needs!("docker-registry", "busybox");
    let mut lab = Lab::start().await?;
    let (sandbox, pod) = lab.pod("grandchild").await?;
    let id = lab.client.launch(&pod, &lab.shell("sleep 100"), &sandbox).await?;
    let start = Instant::now();
    let answer = lab.client.exec(&id, &["sh", "-c", "sleep 50 & echo done"]).await?;
    assert_eq!((&answer.stdout[..], answer.exit_code), (&b"done\n"[..], 0));
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    lab.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn probes_leave_nothing_behind() -> Result<()> {
    needs!("docker-registry", "busybox");
    let mut lab = Lab::start().await?;
    let (sandbox, pod) = lab.pod("probes").await?;
    let id = lab.client.launch(&pod, &lab.shell("sleep 100"), &sandbox).await?;
    let descriptors = |pid: u32| std::fs::read_dir(format!("/proc/{pid}/fd")).map(Iterator::count);
    // The first makes a cgroup for commands, and the second opens it for all that follow.
    for _ in 0..2 {
        lab.client.exec(&id, &["true"]).await?;
    }
    let before = descriptors(lab.machine.server_pid())?;
    for _ in 0..200 {
        lab.client.exec(&id, &["true"]).await?;
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    let after = descriptors(lab.machine.server_pid())?;
    assert!(after <= before + 2, "{before} descriptors before, {after} after 200 probes");
    lab.close().await
}
