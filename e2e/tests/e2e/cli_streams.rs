//! crisp exec, attach and port-forward, as people use them.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crisp_e2e::machine::crisp;
use crisp_e2e::terminal::Terminal;
use crisp_e2e::{Lab, Result, needs};
use k8s_cri::v1::ContainerConfig;
use rustix::process::Signal;

/// `crisp` on a lab.
fn command(lab: &Lab, args: &[&str]) -> Command {
    let mut command = Command::new(crisp());
    let (name, rest) = args.split_first().expect("a name");
    command.arg(name).arg("--listen").arg(format!("unix://{}", lab.machine.socket().display())).args(rest);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Its exit code once it has ended, which has to be soon.
fn ends(child: &mut Child) -> Result<Option<i32>> {
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(8) {
        if let Some(status) = child.try_wait()? {
            return Ok(status.code());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    child.kill()?;
    Err("it does not end".into())
}

#[tokio::test(flavor = "multi_thread")]
async fn exec_passes_all_of_the_output_on_as_it_comes() -> Result<()> {
    needs!("docker-registry", "busybox");
    let mut lab = Lab::start().await?;
    let (sandbox, pod) = lab.pod("cli-exec").await?;
    let id = lab.client.launch(&pod, &lab.shell("sleep 1000"), &sandbox).await?;
    // More than the answer of an RPC may hold.
    let much = command(&lab, &["exec", &id, "head", "-c", "20000000", "/dev/zero"]).output()?;
    assert_eq!((much.stdout.len(), much.status.code()), (20_000_000, Some(0)));
    let mut early = command(&lab, &["exec", &id, "sh", "-c", "echo early; sleep 1000"]).spawn()?;
    let mut text = [0; 6];
    early.stdout.take().ok_or("no output")?.read_exact(&mut text)?;
    assert_eq!(&text, b"early\n");
    early.kill()?;
    early.wait()?;
    let begun = Instant::now();
    let timed_out = command(&lab, &["exec", "--timeout", "1", &id, "sleep", "1000"]).output()?;
    let said = String::from_utf8_lossy(&timed_out.stderr).into_owned();
    assert!(!timed_out.status.success() && said.contains("within 1s"), "{said}");
    assert!(begun.elapsed() < Duration::from_secs(8));
    lab.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn input_that_has_come_is_sent_though_no_more_does() -> Result<()> {
    needs!("docker-registry", "busybox");
    let mut lab = Lab::start().await?;
    let (sandbox, pod) = lab.pod("cli-input").await?;
    let id = lab.client.launch(&pod, &lab.shell("sleep 1000"), &sandbox).await?;
    let mut child = command(&lab, &["exec", "-i", &id, "sh", "-c", "head -c 60000 | wc -c"]).spawn()?;
    let mut stdin = child.stdin.take().ok_or("no input")?;
    // At once, so that less than all of it is read at first.
    stdin.write_all(&[b'x'; 60_000])?;
    assert_eq!(ends(&mut child)?, Some(0));
    let mut text = String::new();
    child.stdout.take().ok_or("no output")?.read_to_string(&mut text)?;
    assert_eq!(text.trim(), "60000");
    drop(stdin);
    lab.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_whose_output_has_no_reader_ends() -> Result<()> {
    needs!("docker-registry", "busybox");
    let mut lab = Lab::start().await?;
    let (sandbox, pod) = lab.pod("cli-broken").await?;
    let id = lab.client.launch(&pod, &lab.shell("while echo tick; do sleep 0.1; done"), &sandbox).await?;
    for args in [&["exec", "-i", &id, "yes"][..], &["attach", &id]] {
        let mut child = command(&lab, args).spawn()?;
        child.stdout.take().ok_or("no output")?.read_exact(&mut [0; 4])?;
        // It has closed its end; the command did not end with 0.
        assert_eq!(ends(&mut child)?, Some(141));
    }
    // One that is there and does not read: signals work all the same.
    let mut child = command(&lab, &["exec", &id, "yes"]).spawn()?;
    std::thread::sleep(Duration::from_millis(700));
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), Signal::TERM)?;
    assert_eq!(ends(&mut child)?, Some(143));
    lab.close().await
}

/// As under nohup.
#[tokio::test(flavor = "multi_thread")]
async fn a_signal_that_is_ignored_from_the_start_ends_no_session() -> Result<()> {
    needs!("docker-registry", "busybox");
    let mut lab = Lab::start().await?;
    let (sandbox, pod) = lab.pod("cli-nohup").await?;
    let id = lab.client.launch(&pod, &lab.shell("sleep 1000"), &sandbox).await?;
    let exec = command(&lab, &["exec", &id, "sh", "-c", "echo up; exec sleep 1000"]);
    let mut child = Command::new("sh");
    child.args(["-c", "trap '' HUP; exec \"$0\" \"$@\""]).arg(exec.get_program()).args(exec.get_args());
    let mut child = child.stdout(Stdio::piped()).spawn()?;
    child.stdout.as_mut().ok_or("no output")?.read_exact(&mut [0; 3])?;
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, Signal::HUP)?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(child.try_wait()?, None);
    rustix::process::kill_process(pid, Signal::TERM)?;
    assert_eq!(ends(&mut child)?, Some(143));
    lab.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn attach_ends_with_the_exit_code_of_the_container() -> Result<()> {
    needs!("docker-registry", "busybox");
    let mut lab = Lab::start().await?;
    let (sandbox, pod) = lab.pod("cli-attach-code").await?;
    let config = ContainerConfig { stdin: true, ..lab.shell("echo up; read x; exit $x") };
    let id = lab.client.launch(&pod, &config, &sandbox).await?;
    let mut child = command(&lab, &["attach", "-i", &id]).spawn()?;
    let mut stdin = child.stdin.take().ok_or("no input")?;
    stdin.write_all(b"7\n")?;
    assert_eq!(ends(&mut child)?, Some(7));
    lab.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_is_passed_on_and_left_as_it_was() -> Result<()> {
    needs!("docker-registry", "busybox", "setsid");
    let mut lab = Lab::start().await?;
    let (sandbox, pod) = lab.pod("cli-tty").await?;
    let id = lab.client.launch(&pod, &lab.shell("sleep 1000"), &sandbox).await?;
    let args = ["exec", "-it", &id, "sh", "-c", "stty size; exec sh"];
    let mut terminal = Terminal::run_in_shell(&command(&lab, &args), 91, 33)?;
    terminal.until("33 91")?;
    terminal.resize(120, 40)?;
    terminal.type_text("sleep 0.3; stty size\n")?;
    terminal.until("40 120")?;
    terminal.interrupt_and_exit(7)?;
    assert_eq!(terminal.end()?, Some(7));
    // Without input its keys are those of the program here.
    let args = ["exec", "-t", &id, "sh", "-c", "echo up; sleep 1000"];
    let mut terminal = Terminal::run_in_shell(&command(&lab, &args), 80, 24)?;
    terminal.until("up")?;
    terminal.type_text("\x03")?;
    assert_eq!(terminal.end()?, Some(130));
    lab.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_is_left_as_it_was_however_its_session_ends() -> Result<()> {
    needs!("docker-registry", "busybox", "setsid", "stty");
    let mut lab = Lab::start().await?;
    let (sandbox, pod) = lab.pod("cli-tty-ends").await?;
    let config = ContainerConfig { stdin: true, tty: true, ..lab.shell("while read x; do echo $x$x; done") };
    let id = lab.client.launch(&pod, &config, &sandbox).await?;
    let wait = ["sh", "-c", "echo u''p; sleep 1000"];

    let exec = |options: &[&str]| -> Result<Terminal> {
        let args = [&["exec", "-it"], options, &[id.as_str()], &wait].concat();
        let mut terminal = Terminal::run_in_shell(&command(&lab, &args), 80, 24)?;
        terminal.until("up")?;
        Ok(terminal)
    };
    for (signal, code) in [(Signal::HUP, 129), (Signal::INT, 130), (Signal::TERM, 143)] {
        let terminal = exec(&[])?;
        terminal.signal(signal)?;
        assert_eq!(terminal.end()?, Some(code));
    }
    assert_eq!(exec(&["--timeout", "10"])?.end()?, Some(125));

    // The keys that detach leave the container running.
    let mut terminal = Terminal::run_in_shell(&command(&lab, &["attach", "-it", &id]), 80, 24)?;
    terminal.type_text("a\n")?;
    terminal.until("aa")?;
    terminal.type_text("\x10\x11")?;
    assert_eq!(terminal.end()?, Some(0));
    let mut terminal = Terminal::run_in_shell(&command(&lab, &["attach", "-it", &id]), 80, 24)?;
    terminal.type_text("b\n")?;
    terminal.until("bb")?;
    lab.machine.kill_server();
    assert_eq!(terminal.end()?, Some(125));
    lab.machine.start_server().await?;
    lab.client = lab.machine.client().await?;
    lab.close().await
}

/// Characters that are typed there are not shown.
#[test]
fn a_signal_at_the_prompt_for_a_password_leaves_the_terminal_as_it_was() -> Result<()> {
    needs!("setsid", "stty");
    for (signal, code) in [(None, 130), (Some(Signal::TERM), 143), (Some(Signal::HUP), 129)] {
        let mut login = Command::new(crisp());
        login.args(["login", "-u", "ann", "registry.test"]);
        let mut terminal = Terminal::run_in_shell(&login, 80, 24)?;
        terminal.until("Password: ")?;
        match signal {
            None => terminal.type_text("\x03")?,
            Some(signal) => terminal.signal(signal)?,
        }
        assert_eq!(terminal.end()?, Some(code));
    }
    Ok(())
}

/// `crisp port-forward` under way, and the local ports.
fn forwards(lab: &Lab, pod: &str, ports: &[&str]) -> Result<(Child, Vec<u16>)> {
    let args = [&["port-forward", pod], ports].concat();
    let mut forward = command(lab, &args).stderr(Stdio::null()).spawn()?;
    let mut output = std::io::BufReader::new(forward.stdout.take().ok_or("no output")?);
    let mut local = Vec::new();
    for _ in ports {
        let mut line = String::new();
        std::io::BufRead::read_line(&mut output, &mut line)?;
        local.push(line.split([':', ' ']).nth(1).ok_or("no port")?.parse()?);
    }
    Ok((forward, local))
}

fn connect(port: u16) -> Result<TcpStream> {
    let socket = TcpStream::connect(("127.0.0.1", port))?;
    socket.set_read_timeout(Some(Duration::from_secs(10)))?;
    Ok(socket)
}

/// Waits until the container's programs listen.
async fn listens(lab: &mut Lab, id: &str, ports: &[u16]) -> Result<()> {
    for port in ports {
        let line = format!(
            "for i in $(seq 300); do busybox netstat -ltn | grep -q ':{port} ' && exit 0; sleep 0.1; done; exit 1"
        );
        assert_eq!(lab.client.exec(id, &["sh", "-c", &line]).await?.exit_code, 0, "port {port}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forward_outlives_any_number_of_connections_that_break() -> Result<()> {
    needs!("docker-registry", "busybox");
    let mut lab = Lab::start().await?;
    let (sandbox, pod) = lab.pod("cli-forward").await?;
    // Endless output to each, and no look at what comes.
    let line = "nc -ll -p 8080 -e yes & nc -ll -p 8081 -e cat & sleep 1000";
    let id = lab.client.launch(&pod, &lab.shell(line), &sandbox).await?;
    listens(&mut lab, &id, &[8080, 8081]).await?;
    let (mut forward, ports) = forwards(&lab, &pod, &["0:8080", "0:8081"])?;
    let (endless, echo) = (ports[0], ports[1]);
    for _ in 0..600 {
        connect(endless)?.read_exact(&mut [0; 2])?;
    }
    let mut socket = connect(echo)?;
    socket.write_all(b"hello")?;
    let mut back = [0; 5];
    socket.read_exact(&mut back)?;
    assert_eq!(&back, b"hello");
    // Nothing of the broken ones is left in the pod.
    let begun = Instant::now();
    loop {
        let left = lab.client.exec(&id, &["sh", "-c", "ps | grep -c '[y]es'"]).await?.stdout;
        // `nc -e yes` itself.
        if String::from_utf8(left.to_vec())?.trim() == "1" {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(15), "connections live on in the pod");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    forward.kill()?;
    forward.wait()?;
    lab.close().await
}

/// A connection that the echo in the pod has taken. Its nc has a queue of two: of many clients at once on a busy
/// machine, some are refused.
fn served(port: u16) -> std::io::Result<TcpStream> {
    let mut tries = 0;
    loop {
        let mut socket = connect(port).map_err(std::io::Error::other)?;
        match socket.write_all(b"?").and_then(|()| socket.read_exact(&mut [0])) {
            Ok(()) => return Ok(socket),
            Err(error) if tries == 20 => return Err(error),
            Err(_) => tries += 1,
        }
    }
}

/// As a database and its benchmark: many connections at once, short requests and answers, some of them broken in
/// the middle.
#[tokio::test(flavor = "multi_thread")]
async fn many_clients_of_a_database_share_a_forward_though_some_break() -> Result<()> {
    needs!("docker-registry", "busybox");
    let mut lab = Lab::start().await?;
    let (sandbox, pod) = lab.pod("cli-database").await?;
    let id = lab.client.launch(&pod, &lab.shell("nc -ll -p 5432 -e cat & sleep 1000"), &sandbox).await?;
    listens(&mut lab, &id, &[5432]).await?;
    let (mut forward, ports) = forwards(&lab, &pod, &["0:5432"])?;
    let port = ports[0];
    let client = move |number: usize| -> std::io::Result<()> {
        for round in 0..10 {
            let mut socket = served(port)?;
            for query in 0..50 {
                let text = format!("{number}-{round}-{query};{}", "x".repeat(query * 37));
                socket.write_all(text.as_bytes())?;
                if number.is_multiple_of(4) && query == 20 {
                    // Unread bytes make the end of it a reset.
                    break;
                }
                let mut back = vec![0; text.len()];
                socket.read_exact(&mut back)?;
                assert!(back == text.as_bytes(), "another connection's bytes");
            }
        }
        Ok(())
    };
    let clients: Vec<_> = (0..16).map(|number| std::thread::spawn(move || client(number))).collect();
    for client in clients {
        client.join().map_err(|_| "a client failed")??;
    }
    assert!(forward.try_wait()?.is_none(), "the forward has ended");
    forward.kill()?;
    forward.wait()?;
    lab.close().await
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
    let begun = Instant::now();
    while lab.client.exec(&id, &["sh", "-c", "ps | grep -q '[s]leep 12345'"]).await?.exit_code == 0 {
        assert!(begun.elapsed() < Duration::from_secs(20), "the command of a lost session lives on");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
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
