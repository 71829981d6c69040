//! Sessions of exec, attach and port-forward when the server ends.

use std::io::{Read as _, Write as _};

use crisp_e2e::{Lab, Result, needs};

use crate::cli_forward::{connect, forwards};
use crate::cli_streams::{command, ends};

/// Waits until no process of the container has the text in its line of `ps`.
async fn until_none_runs(lab: &mut Lab, id: &str, text: &str) -> Result<()> {
    lab.client.until(id, &format!("! ps | grep -v grep | grep -q '{text}'")).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_of_a_server_that_is_killed_end_and_the_container_never_notices() -> Result<()> {
    needs!("docker-registry", "busybox");
    let mut lab = Lab::start().await?;
    let (sandbox, pod) = lab.pod("cli-killed").await?;
    let line = "nc -ll -p 8080 -e cat & while echo tick; do sleep 0.1; done";
    let id = lab.client.launch(&pod, &lab.shell(line), &sandbox).await?;
    let mut exec = command(&lab, &["exec", "-i", &id, "sh", "-c", "echo up; exec sleep 12345"]).spawn()?;
    exec.stdout.as_mut().ok_or("no output")?.read_exact(&mut [0; 3])?;
    let mut attach = command(&lab, &["attach", &id]).spawn()?;
    attach.stdout.as_mut().ok_or("no output")?.read_exact(&mut [0; 5])?;
    let (mut forward, ports) = forwards(&lab, &pod, &["0:8080"])?;
    let mut socket = connect(ports[0])?;
    socket.write_all(b"x")?;
    socket.read_exact(&mut [0])?;
    lab.machine.kill_server();
    for child in [&mut exec, &mut attach, &mut forward] {
        assert!(ends(child)?.is_some_and(|code| code != 0), "a lost session is no success");
    }
    assert!(!matches!(socket.read(&mut [0]), Ok(1..)));
    lab.machine.start_server().await?;
    lab.client = lab.machine.client().await?;
    until_none_runs(&mut lab, &id, "sleep 12345").await?;
    let mut attach = command(&lab, &["attach", &id]).spawn()?;
    attach.stdout.as_mut().ok_or("no output")?.read_exact(&mut [0; 5])?;
    attach.kill()?;
    attach.wait()?;
    let (mut forward, ports) = forwards(&lab, &pod, &["0:8080"])?;
    let mut socket = connect(ports[0])?;
    socket.write_all(b"y")?;
    socket.read_exact(&mut [0])?;
    forward.kill()?;
    forward.wait()?;
    lab.close().await
}

/// The commands in open sessions are not killed at once when a server ends: a user or a backup may need them.
#[tokio::test(flavor = "multi_thread")]
async fn commands_of_a_server_that_ends_hear_sighup_before_they_are_killed() -> Result<()> {
    needs!("docker-registry", "busybox");
    let mut lab = Lab::start().await?;
    let (sandbox, pod) = lab.pod("cli-ended").await?;
    let id = lab.client.launch(&pod, &lab.shell("sleep 1000"), &sandbox).await?;
    let clean = "trap 'sleep 0.3; touch /tmp/heard; exit' HUP; echo up; while :; do sleep 0.1; done";
    let deaf = "trap '' HUP; echo up; sleep 12346; sleep 12346";
    let mut sessions = Vec::new();
    for line in [clean, deaf] {
        let mut exec = command(&lab, &["exec", "-i", &id, "sh", "-c", line]).spawn()?;
        exec.stdout.as_mut().ok_or("no output")?.read_exact(&mut [0; 3])?;
        sessions.push(exec);
    }
    lab.machine.stop_server()?;
    for exec in &mut sessions {
        assert!(ends(exec)?.is_some_and(|code| code != 0), "a lost session is no success");
    }
    lab.machine.start_server().await?;
    lab.client = lab.machine.client().await?;
    for text in ["touch /tmp/heard", "sleep 12346"] {
        until_none_runs(&mut lab, &id, text).await?;
    }
    let seen = lab.client.exec(&id, &["ls", "/tmp/heard"]).await?;
    assert_eq!(seen.exit_code, 0, "the command was killed without its SIGHUP and grace");
    lab.close().await
}
