//! Sessions of exec, attach and port-forward when the server ends.

use std::io::{BufRead as _, BufReader, ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::process::Child;
use std::time::Duration;

use crisp_e2e::{Lab, Result, needs};
use k8s_cri::v1::ContainerConfig;

use crate::cli_forward::{connect, forwards};
use crate::cli_streams::{command, ends};

/// Waits until no process of the container has the text in its line of `ps`.
async fn until_none_runs(lab: &mut Lab, id: &str, text: &str) -> Result<()> {
    lab.client.until(id, &format!("! ps | grep -v grep | grep -q '{text}'")).await?;
    Ok(())
}

/// Reads from a connection that the other side must have closed: a read that times out is no end.
fn is_closed(socket: &mut TcpStream) -> Result<()> {
    match socket.read(&mut [0]) {
        Ok(0) => Ok(()),
        Err(error) if matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => Ok(()),
        Ok(bytes) => Err(format!("{bytes} bytes come from a lost session").into()),
        Err(error) => Err(format!("the connection is still open: {error}").into()),
    }
}

/// Attaches to a container that repeats its input, and sends it a word.
fn repeats(lab: &Lab, id: &str, word: &str) -> Result<Child> {
    let mut attach = command(lab, &["attach", "-i", id]).spawn()?;
    attach.stdin.as_mut().ok_or("no input")?.write_all(format!("{word}\n").as_bytes())?;
    let mut output = vec![0; "got ".len() + word.len() + 1];
    attach.stdout.as_mut().ok_or("no output")?.read_exact(&mut output)?;
    assert_eq!(String::from_utf8(output)?, format!("got {word}\n"));
    Ok(attach)
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
    let line = "while read word; do echo got $word; done";
    let config = ContainerConfig { stdin: true, ..crisp_e2e::request::shell("reader", &lab.image, line) };
    let reader = lab.client.launch(&pod, &config, &sandbox).await?;
    let mut repeating = repeats(&lab, &reader, "before")?;
    let (mut forward, ports) = forwards(&lab, &pod, &["0:8080"])?;
    let mut socket = connect(ports[0])?;
    socket.write_all(b"x")?;
    socket.read_exact(&mut [0])?;
    lab.machine.kill_server();
    for child in [&mut exec, &mut attach, &mut repeating, &mut forward] {
        assert!(ends(child)?.is_some_and(|code| code != 0), "a lost session is no success");
    }
    is_closed(&mut socket)?;
    lab.machine.start_server().await?;
    lab.client = lab.machine.client().await?;
    until_none_runs(&mut lab, &id, "sleep 12345").await?;
    let mut attach = command(&lab, &["attach", &id]).spawn()?;
    attach.stdout.as_mut().ok_or("no output")?.read_exact(&mut [0; 5])?;
    for mut child in [attach, repeats(&lab, &reader, "after")?] {
        child.kill()?;
        child.wait()?;
    }
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

/// The numbers of complete lines, of which each must follow the one before it.
fn numbers_in_order(text: &str) -> Result<std::ops::RangeInclusive<u32>> {
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let numbers = whole.lines().map(str::parse).collect::<Result<Vec<u32>, _>>()?;
    let (Some(first), Some(last)) = (numbers.first(), numbers.last()) else {
        return Err("there are no lines".into());
    };
    let wrong = numbers.windows(2).find(|pair| pair[1] != pair[0] + 1);
    match wrong {
        None => Ok(*first..=*last),
        Some(pair) => Err(format!("{} comes after {}", pair[1], pair[0]).into()),
    }
}

/// Waits for the first line of an attached client, and then reads on until it ends.
fn printed_by(attach: &mut Child) -> Result<std::thread::JoinHandle<String>> {
    let mut output = BufReader::new(attach.stdout.take().ok_or("no output")?);
    let mut text = Vec::new();
    output.read_until(b'\n', &mut text)?;
    Ok(std::thread::spawn(move || {
        let _ = output.read_to_end(&mut text);
        String::from_utf8_lossy(&text).into_owned()
    }))
}

#[tokio::test(flavor = "multi_thread")]
async fn no_line_of_a_container_is_lost_while_the_server_of_its_attached_client_restarts() -> Result<()> {
    needs!("docker-registry", "busybox");
    let mut lab = Lab::start().await?;
    let (sandbox, pod) = lab.pod("cli-lines").await?;
    let line = "n=0; until test -e /stop; do n=$((n+1)); echo $n; test $((n % 20)) = 0 && usleep 2000; done; \
                echo $((n+1)); exit 3";
    let id = lab.client.launch(&pod, &lab.shell(line), &sandbox).await?;
    let mut seen = Vec::new();
    for is_killed in [true, false, true] {
        let mut attach = command(&lab, &["attach", &id]).spawn()?;
        let printed = printed_by(&mut attach)?;
        if is_killed {
            lab.machine.kill_server()
        } else {
            lab.machine.stop_server()?
        }
        assert!(ends(&mut attach)?.is_some_and(|code| code != 0), "a lost session is no success");
        seen.push(printed.join().map_err(|_| "the reader panicked")?);
        tokio::time::sleep(Duration::from_millis(200)).await;
        lab.machine.start_server().await?;
        lab.client = lab.machine.client().await?;
    }
    let mut attach = command(&lab, &["attach", &id]).spawn()?;
    let printed = printed_by(&mut attach)?;
    lab.client.exec(&id, &["touch", "/stop"]).await?;
    assert_eq!(ends(&mut attach)?, Some(3));
    seen.push(printed.join().map_err(|_| "the reader panicked")?);
    let ranges = seen.iter().map(|text| numbers_in_order(text)).collect::<Result<Vec<_>>>()?;
    let log = numbers_in_order(&lab.machine.container_log("cli-lines", "main")?)?;
    assert_eq!(*log.start(), 1);
    assert_eq!(ranges.last().map(|last| *last.end()), Some(*log.end()), "the last client sees the last line");
    for pair in ranges.windows(2) {
        assert!(pair[0].end() < pair[1].start(), "the container ran on: {ranges:?}");
    }
    lab.close().await
}
