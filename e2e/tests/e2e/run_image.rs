//! `crisp run IMAGE [COMMAND]` in the foreground, with docker's options.

use std::process::{Command, Stdio};

use crisp_e2e::machine::crisp;
use crisp_e2e::standalone::Host;
use crisp_e2e::terminal::Terminal;
use crisp_e2e::{Image, Machine, Registry, Result, Setup, needs};
use rustix::process::Signal;

async fn machine() -> Result<(Machine, Host, String)> {
    let machine = Machine::start_with(Setup::default()).await?;
    let image = machine.registry().push("busybox", "1", &Image::busybox().build())?;
    let host = Host::new(&machine)?;
    Ok((machine, host, image))
}

/// Runs a command; returns the exit code and both outputs.
async fn run(host: &Host, words: &[&str]) -> Result<(Option<i32>, String, String)> {
    let words = [&["--network", "host"], words].concat();
    let mut run = host.start_image("run", &words, Stdio::null())?;
    let code = run.end().await?.code();
    Ok((code, run.output(), run.errors()))
}

#[tokio::test(flavor = "multi_thread")]
async fn output_and_exit_code_are_those_of_the_program() -> Result<()> {
    needs!("docker-registry", "busybox", "unshare");
    let (machine, host, image) = machine().await?;
    let line = "echo out $A $0; echo err >&2; printf '$(A) %s' end; exit 7";
    let (code, out, err) = run(&host, &["-q", "-e", "A=$(X)", &image, "sh", "-c", line, "-d"]).await?;
    assert_eq!((code, out.as_str(), err.as_str()), (Some(7), "out $(X) -d\n$(A) end", "err\n"));
    let (code, out, err) = run(&host, &["-q", &image, "no-such-program"]).await?;
    assert!(code == Some(127) && out.is_empty() && err.contains("no-such-program"), "{code:?} {out} {err}");
    let (code, _, err) = run(&host, &["-q", &image, "/etc"]).await?;
    assert_eq!(code, Some(126), "{err}");
    for (words, named) in [
        (&["-q", "--pull", "never", "nothing-of-this-name"][..], "nothing-of-this-name"),
        (&["--cpu-shares", "512", &image], "--cpu-shares is not supported"),
    ] {
        let (code, _, err) = run(&host, words).await?;
        assert!(code == Some(125) && err.contains(named), "{code:?} {err}");
    }
    // With any policy: it was never started.
    let (code, _, err) = run(&host, &["-q", "--restart", "always", &image, "no-such-program"]).await?;
    assert_eq!(code, Some(127), "{err}");
    machine.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn options_have_their_effect_in_the_container() -> Result<()> {
    needs!("docker-registry", "busybox", "unshare");
    let (machine, host, image) = machine().await?;
    let folder = machine.folder().join("shared");
    std::fs::create_dir(&folder)?;
    let bind = format!("{}:/bind", folder.display());
    let line = "id -u; id -g; pwd; echo x > /bind/written; touch /read-only || echo is read-only; \
         df -k /dev/shm | awk 'END {print $2}'; grep -c db /etc/hosts; cat /proc/sys/net/ipv4/ip_default_ttl; \
         echo kept > /data/f; head -c 3 /fast/none; echo $HOME$0; cat /proc/self/oom_score_adj; echo $$";
    let words = [
        "-q",
        "-u",
        "12:34",
        "-w",
        "/tmp",
        "-v",
        &bind,
        "-v",
        "data:/data",
        "--tmpfs",
        "/fast:size=64k",
        "--read-only",
        "--shm-size",
        "8m",
        "--add-host",
        "db:10.1.2.3",
        "-e",
        "HOME=/nowhere",
        "--oom-score-adj",
        "77",
        "--init",
        "--cap-drop",
        "ALL",
        "--entrypoint",
        "sh",
        &image,
        "-c",
        line,
        "last",
    ];
    std::fs::set_permissions(&folder, std::os::unix::fs::PermissionsExt::from_mode(0o777))?;
    let (code, out, err) = run(&host, &words).await?;
    let lines: Vec<&str> = out.lines().collect();
    let ttl = std::fs::read_to_string("/proc/sys/net/ipv4/ip_default_ttl")?;
    assert_eq!(
        lines[..8],
        ["12", "34", "/tmp", "is read-only", "8192", "1", ttl.trim(), "/nowherelast"],
        "{err}"
    );
    assert_eq!((lines[8], lines[9] != "1", code), ("77", true, Some(0)), "--init: {out} {err}");
    assert_eq!(std::fs::read_to_string(folder.join("written"))?, "x\n");
    let (code, out, err) = run(&host, &["-q", "-v", "data:/data", &image, "cat", "/data/f"]).await?;
    assert_eq!((code, out.as_str()), (Some(0), "kept\n"), "a named volume outlives its container: {err}");
    machine.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn input_is_passed_on_to_its_end() -> Result<()> {
    needs!("docker-registry", "busybox", "unshare");
    let (machine, host, image) = machine().await?;
    let input = machine.folder().join("input");
    std::fs::write(&input, "some words\n".repeat(10_000))?;
    let words = ["-q", "-i", "--network", "host", "--rm", &image, "wc", "-c"];
    let mut run = host.start_image("input", &words, std::fs::File::open(&input)?.into())?;
    let code = run.end().await?.code();
    assert_eq!((code, run.output().trim()), (Some(0), "110000"), "{}", run.errors());
    machine.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_is_the_containers() -> Result<()> {
    needs!("docker-registry", "busybox", "unshare", "setsid");
    let (machine, host, image) = machine().await?;
    let mut command = host.command();
    command.args(["-q", "-it", "--network", "host", &image, "sh"]);
    let mut terminal = Terminal::run(&command, 91, 33)?;
    // The shell may have printed its prompt before this.
    terminal.type_text("echo re''ady; stty size\n")?;
    terminal.until("ready")?;
    terminal.until("33 91")?;
    terminal.interrupt_and_exit(9)?;
    assert_eq!(terminal.end()?, Some(9));
    // The program has ended before the command could attach to it.
    let mut command = host.command();
    command.args(["-q", "-t", "--network", "host", &image, "echo", "quick"]);
    let mut terminal = Terminal::run(&command, 80, 24)?;
    terminal.until("quick")?;
    assert_eq!(terminal.end()?, Some(0));
    machine.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_signal_is_passed_on_and_the_second_kills() -> Result<()> {
    needs!("docker-registry", "busybox", "unshare");
    let (machine, host, image) = machine().await?;
    let start = |name: &str, line: &str| {
        let words = ["-q", "--network", "host", &image, "sh", "-c", line];
        host.start_image(name, &words, Stdio::null())
    };
    let mut heard = start("heard", "trap 'echo heard; exit 5' INT; echo up; while :; do sleep 0.1; done")?;
    heard.until("it does not start", |run| run.output().contains("up")).await?;
    heard.signal(Signal::INT)?;
    assert_eq!(heard.end().await?.code(), Some(5), "{}", heard.errors());
    assert!(heard.output().contains("heard"));
    let mut deaf = start("deaf", "trap 'echo ignored' INT; echo up; while :; do sleep 0.1; done")?;
    deaf.until("it does not start", |run| run.output().contains("up")).await?;
    deaf.signal(Signal::INT)?;
    deaf.until("it is not passed on", |run| run.output().contains("ignored")).await?;
    deaf.signal(Signal::INT)?;
    assert_eq!(deaf.end().await?.code(), Some(130), "{}", deaf.errors());
    assert!(deaf.errors().contains("killing the container"), "{}", deaf.errors());
    machine.close().await
}

/// The bcrypt hash of `hunter2`.
const PASSWORD: &str = "ann:$2y$05$abcdefghijklmnopqrstuuoXuKqgZXLiJqzfmMXDDhSFPIvxV7t8.\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_login_that_is_kept_is_used_by_both_ways_to_run() -> Result<()> {
    needs!("docker-registry", "busybox", "unshare");
    let (machine, host, _) = machine().await?;
    let folder = machine.folder().join("private");
    let name = Registry::start(&folder)?.push("app", "1", &Image::busybox().build())?;
    let registry = Registry::start_private(&folder, PASSWORD)?;
    let image = format!("{}/{}", registry.host, name.split_once('/').map_or("", |(_, name)| name));
    let logins = machine.folder().join("auth.json");
    let detached = || {
        let mut command = Command::new(crisp());
        command.args(["run", "-dq", "--listen", &format!("unix://{}", machine.socket().display())]);
        command
    };
    let run = |mut command: Command| -> Result<(Option<i32>, String)> {
        command.args(["--network", "host", &image, "echo", "inside"]).env("REGISTRY_AUTH_FILE", &logins);
        let output = command.stdin(Stdio::null()).output()?;
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(!text.contains("hunter2") && !text.contains("YW5uOmh1bnRlcjI="), "{text}");
        Ok((output.status.code(), text))
    };
    for command in [host.command(), detached()] {
        let (code, text) = run(command)?;
        assert!(code == Some(125) && text.contains("authentication required"), "{code:?} {text}");
    }
    let login = format!("{{\"auths\": {{\"{}\": {{\"auth\": \"YW5uOmh1bnRlcjI=\"}}}}}}", registry.host);
    std::fs::write(&logins, login)?;
    let (code, text) = run(host.command())?;
    assert!(code == Some(0) && text.contains("inside"), "{code:?} {text}");
    let (code, text) = run(detached())?;
    assert_eq!(code, Some(0), "{text}");
    assert!(!machine.log().contains("hunter2"));
    machine.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_terminal_and_a_reader_that_leaves_end_the_container() -> Result<()> {
    needs!("docker-registry", "busybox", "unshare");
    let (machine, host, image) = machine().await?;
    let words = ["-q", "--network", "host", "--stop-timeout", "1", &image, "sh", "-c"];
    let line = "trap '' HUP TERM; echo up; while :; do sleep 0.1; done";
    let mut deaf = host.start_image("deaf", &[&words[..], &[line]].concat(), Stdio::null())?;
    deaf.until("it does not start", |run| run.output().contains("up")).await?;
    deaf.signal(Signal::HUP)?;
    assert_eq!(deaf.end().await?.code(), Some(129), "{}", deaf.errors());
    let mut command = host.command();
    command.args(words).arg("while echo line; do sleep 0.1; done");
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    std::io::Read::read_exact(&mut child.stdout.take().ok_or("no output")?, &mut [0; 5])?;
    let begun = std::time::Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if begun.elapsed() > std::time::Duration::from_secs(60) {
            child.kill()?;
            return Err("it runs on without a reader".into());
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    };
    assert_eq!(status.code(), Some(141));
    machine.close().await
}
