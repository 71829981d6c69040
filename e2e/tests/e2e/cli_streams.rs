//! `crisp exec` and `crisp attach`.

use std::io::{Read as _, Write as _};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crisp_e2e::machine::crisp;
use crisp_e2e::terminal::Terminal;
use crisp_e2e::{Lab, Result, needs};
use k8s_cri::v1::ContainerConfig;
use rustix::process::Signal;

/// The command `crisp` with the server of a lab.
pub fn command(lab: &Lab, args: &[&str]) -> Command {
    let mut command = Command::new(crisp());
    let (name, rest) = args.split_first().expect("a name");
    command.arg(name).arg("--listen").arg(format!("unix://{}", lab.machine.socket().display())).args(rest);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Waits for the end, which must come soon, and returns the exit code.
pub fn ends(child: &mut Child) -> Result<Option<i32>> {
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
    // More bytes than the response of an RPC may hold.
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
async fn exec_has_a_user_variables_and_a_working_directory_of_its_own() -> Result<()> {
    needs!("docker-registry", "busybox");
    let mut lab = Lab::start().await?;
    let (sandbox, pod) = lab.pod("cli-exec-as").await?;
    // The account was made after the container's start.
    let line = "echo late:x:77:88::/tmp:/bin/sh >> /etc/passwd; touch /ready; exec sleep 1000";
    let mut config = lab.shell(line);
    let own = k8s_cri::v1::KeyValue { key: "OWN".into(), value: "container".into() };
    config.envs = vec![own];
    let id = lab.client.launch(&pod, &config, &sandbox).await?;
    while lab.client.exec(&id, &["test", "-e", "/ready"]).await?.exit_code != 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    const LINE: &str =
        "echo $(id -u):$(id -g):$(id -G) $HOME $PWD $OWN $SECRET; grep CapEff /proc/self/status";
    let said = |options: &[&str]| -> Result<String> {
        let output = command(&lab, &[&["exec"], options, &[&id, "sh", "-c", LINE]].concat()).output()?;
        Ok(String::from_utf8(output.stdout)? + &String::from_utf8(output.stderr)?)
    };
    let first = |text: String| text.lines().next().unwrap_or_default().to_owned();
    assert_eq!(first(said(&[])?), "0:0:0 /root / container");
    let file = lab.machine.folder().join("variables");
    std::fs::write(&file, "# a remark\nSECRET=of-file\nOWN=of-file\n")?;
    let file = file.to_str().ok_or("no UTF-8")?;
    let all = said(&["-u", "app", "-w", "/tmp", "-e", "OWN=mine=1", "--env-file", file])?;
    assert!(all.ends_with("CapEff:\t0000000000000000\n"), "{all}");
    assert_eq!(first(all), "1000:1001:1001 2000 / /tmp mine=1 of-file");
    assert_eq!(first(said(&["-u", "late"])?), "77:88:88 /tmp / container");
    assert_eq!(first(said(&["-u", "5:6"])?), "5:6:6 / / container");
    // A later command has none of it.
    assert_eq!(first(said(&[])?), "0:0:0 /root / container");
    assert!(said(&["-u", "nobody-here"])?.contains("nobody-here"));
    let missing = said(&["-w", "/no-such-folder"])?;
    assert!(missing.contains("/no-such-folder"), "{missing}");
    assert!(said(&["-w", "tmp"])?.contains("working_dir"));
    let unset = said(&["-e", "NO_SUCH_VARIABLE_HERE"])?;
    assert_eq!(first(unset), "0:0:0 /root / container");
    let log = lab.machine.log();
    assert!(!log.contains("of-file"), "a value is in the log");
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
    // Written at once, so that the first read does not get all of it.
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
        // The command has closed its end of the pipe, so it did not end with 0.
        assert_eq!(ends(&mut child)?, Some(141));
    }
    // Signals also work when the reader of the output exists but does not read.
    let mut child = command(&lab, &["exec", &id, "yes"]).spawn()?;
    std::thread::sleep(Duration::from_millis(700));
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), Signal::TERM)?;
    assert_eq!(ends(&mut child)?, Some(143));
    lab.close().await
}

/// The state of a command under nohup.
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
    // Without input, keys are for the program on this side.
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

    // The detach keys leave the container running.
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

#[tokio::test(flavor = "multi_thread")]
async fn the_keys_that_detach_can_be_chosen() -> Result<()> {
    needs!("docker-registry", "busybox", "setsid", "stty");
    let mut lab = Lab::start().await?;
    let (sandbox, pod) = lab.pod("cli-detach-keys").await?;
    let config = ContainerConfig { stdin: true, tty: true, ..lab.shell("while read x; do echo $x$x; done") };
    let id = lab.client.launch(&pod, &config, &sandbox).await?;
    let attach = |keys: &str| {
        let args = ["attach", "-it", "--detach-keys", keys, &id];
        Terminal::run_in_shell(&command(&lab, &args), 80, 24)
    };

    // Until the client has set its terminal, that would take ctrl-q for itself.
    let is_up = |terminal: &mut Terminal| -> Result<()> {
        terminal.type_text("a\n")?;
        terminal.until("aa")
    };
    let mut terminal = attach("ctrl-a,d")?;
    is_up(&mut terminal)?;
    // The usual keys, and half of the chosen ones, go to the program.
    terminal.type_text("\x10\x11\n")?;
    terminal.until("\x10\x10")?;
    terminal.type_text("\x01a\n")?;
    terminal.until("\x01a\x01a")?;
    terminal.type_text("\x01d")?;
    assert_eq!(terminal.end()?, Some(0));

    // Without keys nothing detaches.
    let mut terminal = attach("")?;
    is_up(&mut terminal)?;
    terminal.type_text("\x10\x11b\n")?;
    terminal.until("\x10b\x10b")?;
    terminal.signal(Signal::TERM)?;
    assert_eq!(terminal.end()?, Some(143));

    for (options, keys, reason) in
        [("-it", "ctrl-p,F1", "\"F1\" is no key"), ("-i", "a", "--tty"), ("-t", "a", "--interactive")]
    {
        let refused = command(&lab, &["attach", options, "--detach-keys", keys, &id]).output()?;
        let said = String::from_utf8_lossy(&refused.stderr);
        assert_eq!(refused.status.code(), Some(2), "{said}");
        assert!(said.contains("--detach-keys") && said.contains(reason), "{said}");
    }
    lab.close().await
}

/// Typed characters of a password are not shown.
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
