//! ExecSync whose caller or server is gone before its end: all that it has started is killed, without the grace time of
//! commands in sessions.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crisp_e2e::standalone::processes_with;
use crisp_e2e::{Lab, Result, Setup, needs};
use k8s_cri::v1::{ExecSyncRequest, ExecSyncResponse};
use rustix::process::{Pid, getsid};
use tokio::task::JoinHandle;
use tonic::{Response, Status};

const PATIENCE: Duration = Duration::from_secs(60);
/// The time limit of the command in seconds, much longer than the patience: it must not be what ends the command.
const TIMEOUT: i64 = 600;

/// A command that goes on, with a child that has left its session.
struct Call {
    response: JoinHandle<Result<Response<ExecSyncResponse>, Status>>,
    /// Arguments of the child and of the command, and of no other process.
    sleeps: [String; 2],
}

/// A number of seconds that no other call returns, as an argument for `sleep`.
fn unique() -> String {
    static LAST: AtomicU32 = AtomicU32::new(0);
    let number = LAST.fetch_add(1, Ordering::Relaxed);
    format!("6{:05}.{number}", std::process::id() % 100_000)
}

/// The session of the process that has this argument.
fn session(argument: &str) -> Option<Pid> {
    processes_with(argument).first().and_then(|pid| getsid(Some(*pid)).ok())
}

impl Call {
    /// Returns when both processes run.
    async fn start(lab: &Lab, id: &str) -> Result<Self> {
        let sleeps = [unique(), unique()];
        let line = format!("busybox setsid sleep {} & sleep {}", sleeps[0], sleeps[1]);
        let request = ExecSyncRequest {
            container_id: id.to_owned(),
            cmd: ["sh", "-c", &line].map(str::to_owned).to_vec(),
            timeout: TIMEOUT,
        };
        let mut runtime = lab.client.runtime.clone();
        let response = tokio::spawn(async move { runtime.exec_sync(request).await });
        let begun = Instant::now();
        loop {
            let sessions = sleeps.each_ref().map(|sleep| session(sleep));
            if matches!(sessions, [Some(child), Some(command)] if child != command) {
                return Ok(Self { response, sleeps });
            }
            if response.is_finished() {
                return Err(format!("the command has ended: {:?}", response.await?).into());
            }
            assert!(begun.elapsed() < PATIENCE, "the command does not start: {sessions:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// Waits until no process has one of these arguments.
async fn are_gone(sleeps: &[String], what: &str) {
    let begun = Instant::now();
    loop {
        let living: Vec<_> = sleeps.iter().filter(|sleep| !processes_with(sleep).is_empty()).collect();
        if living.is_empty() {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "{what}: not killed: {living:?} of {sleeps:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A lab with a container in which nothing else happens, and the id of that.
async fn container(name: &str) -> Result<(Lab, String)> {
    let args = ["--exec-grace", "2"].map(str::to_owned).to_vec();
    let mut lab = Lab::start_with(Setup { args, ..Setup::default() }).await?;
    let (sandbox, pod) = lab.pod(name).await?;
    let id = lab.client.launch(&pod, &lab.shell("exec sleep 1000"), &sandbox).await?;
    Ok((lab, id))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_whose_caller_is_gone_is_killed_with_all_that_it_has_started() -> Result<()> {
    needs!("docker-registry", "busybox");
    let (mut lab, id) = container("caller-gone").await?;
    let Call { response, sleeps } = Call::start(&lab, &id).await?;
    response.abort();
    are_gone(&sleeps, "the caller is gone").await;
    assert_eq!(lab.client.sh(&id, "echo next").await?, "next\n");
    lab.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_whose_server_is_killed_is_killed_with_all_that_it_has_started() -> Result<()> {
    needs!("docker-registry", "busybox");
    let (mut lab, id) = container("server-gone").await?;
    let Call { response, sleeps } = Call::start(&lab, &id).await?;
    lab.machine.kill_server();
    assert!(response.await?.is_err(), "a command whose server is gone has no exit code");
    lab.machine.start_server().await?;
    lab.client = lab.machine.client().await?;
    are_gone(&sleeps, "the server is gone").await;
    assert_eq!(lab.client.sh(&id, "echo next").await?, "next\n");
    lab.close().await
}
