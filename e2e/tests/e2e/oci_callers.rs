//! `crisp oci` as its callers use it: exec, terminals by socket, lists, and requests before the first
//! container.

use std::io::Read as _;
use std::os::unix::net::UnixListener;
use std::process::{Command, Stdio};

use crisp_e2e::bundle::{Bundle, spec};
use crisp_e2e::{Result, needs};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use serde_json::{Value, json};

#[test]
fn commands_run_in_a_container() -> Result<()> {
    needs!("busybox");
    let bundle = Bundle::new(&["sleep", "1000"])?;
    bundle.good(&["run", "-d", "@web"])?;
    let output = bundle.oci(&["exec", "@web", "sh", "-c", "hostname; echo $COLOUR; echo err >&2; exit 5"])?;
    assert_eq!(output.status.code(), Some(5), "{output:?}");
    assert_eq!((output.stdout, output.stderr), (b"bundle\nblue\n".to_vec(), b"err\n".to_vec()));
    let options = ["exec", "--user", "1000:7", "--cwd", "/bin", "--env", "COLOUR=red", "@web"];
    let text = bundle.good(&[&options[..], &["sh", "-c", "id -u; id -g; pwd; echo $COLOUR"]].concat())?;
    assert_eq!(text, "1000\n7\n/bin\nred\n");
    // In the form that containerd uses.
    let mut process = spec(&["sleep", "999"])["process"].clone();
    process["user"]["uid"] = json!(12);
    let (file, pid_file) = (bundle.path().join("process.json"), bundle.path().join("exec.pid"));
    std::fs::write(&file, process.to_string())?;
    let (file, pid_path) = (file.to_str().unwrap(), pid_file.to_str().unwrap());
    bundle.good(&["exec", "--process", file, "--pid-file", pid_path, "--detach", "@web"])?;
    let pid = std::fs::read_to_string(&pid_file)?;
    assert_eq!(std::fs::read_to_string(format!("/proc/{pid}/cmdline"))?, "sleep\0999\0");
    let pids: Vec<i64> = serde_json::from_str(&bundle.good(&["ps", "--format", "json", "@web"])?)?;
    assert!(pids.len() == 2 && pids.contains(&pid.parse()?), "{pids:?}");
    assert!(bundle.good(&["ps", "@web"])?.contains("sleep 999"));
    assert!(bundle.refused(&["exec", "@web", "no-such"])?.contains("no-such"));
    Ok(())
}

#[test]
fn a_terminal_goes_over_the_console_socket() -> Result<()> {
    needs!("busybox");
    let bundle = Bundle::new(&[])?;
    bundle.change(&spec(&["sh", "-c", "tty; stty size; sleep 1000"]), |spec| {
        spec["process"]["terminal"] = json!(true);
        spec["process"]["consoleSize"] = json!({ "height": 33, "width": 101 });
    })?;
    let socket = bundle.path().join("console");
    let listener = UnixListener::bind(&socket)?;
    bundle.good(&["create", "--console-socket", socket.to_str().unwrap(), "@tty"])?;
    let mut master = receive(&listener)?;
    bundle.good(&["start", "@tty"])?;
    let mut text = String::new();
    while !text.contains("33 101") {
        let mut bytes = [0; 256];
        let count = master.read(&mut bytes)?;
        text.push_str(&String::from_utf8_lossy(&bytes[..count]));
    }
    assert!(text.contains("/dev/pts/0") || text.contains("/dev/console"), "{text}");
    let command = ["exec", "--tty", "--detach", "--console-socket", socket.to_str().unwrap(), "@tty", "tty"];
    bundle.good(&command)?;
    let mut master = receive(&listener)?;
    let mut bytes = [0; 64];
    let count = master.read(&mut bytes)?;
    assert!(String::from_utf8_lossy(&bytes[..count]).contains("/dev/pts/1"));
    Ok(())
}

fn receive(listener: &UnixListener) -> Result<std::fs::File> {
    let (stream, _) = listener.accept()?;
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut bytes = [0; 256];
    recvmsg(&stream, &mut [std::io::IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let fd = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    Ok(fd.ok_or("no descriptor came")?.into())
}

#[test]
fn a_terminal_in_the_foreground_is_relayed() -> Result<()> {
    needs!("busybox");
    let bundle = Bundle::new(&[])?;
    let line = "stty size; echo name?; read name; echo hello $name; exit 9";
    bundle.change(&spec(&["sh", "-c", line]), |spec| spec["process"]["terminal"] = json!(true))?;
    let command = ["run", "--bundle", bundle.path().to_str().unwrap(), "@fore"];
    let mut terminal = crisp_e2e::terminal::Terminal::run(&bundle.command(&command), 91, 27)?;
    terminal.until("27 91")?;
    terminal.until("name?")?;
    terminal.type_text("crisp\r")?;
    terminal.until("hello crisp")?;
    assert_eq!(terminal.end()?, Some(9));
    Ok(())
}

/// Also where the last of it has to wait for the reader: it is printed after the end of the process then.
#[test]
fn the_end_of_a_terminals_output_is_printed_to_a_slow_reader() -> Result<()> {
    needs!("busybox");
    let bundle = Bundle::new(&[])?;
    // Around the 64 KiB that a pipe has room for.
    for size in (48_000..72_000).step_by(1000) {
        let line = format!("head -c {size} /dev/zero | tr '\\0' x; printf END");
        bundle.change(&spec(&["sh", "-c", &line]), |spec| spec["process"]["terminal"] = json!(true))?;
        let (mut read, write) = std::io::pipe()?;
        let mut run = bundle.command(&["run", "@long"]).stdin(Stdio::null()).stdout(write).spawn()?;
        std::thread::sleep(std::time::Duration::from_millis(200));
        let mut text = String::new();
        read.read_to_string(&mut text)?;
        assert!(run.wait()?.success());
        assert!(text.len() == size + 3 && text.ends_with("xEND"), "{} of {size} bytes", text.len());
    }
    Ok(())
}

#[test]
fn lists_show_all_containers() -> Result<()> {
    needs!("busybox");
    let bundle = Bundle::new(&["sleep", "1000"])?;
    assert_eq!(bundle.good(&["list", "--format", "json"])?, "[]\n");
    bundle.good(&["create", "@a"])?;
    bundle.good(&["run", "-d", "@b"])?;
    // The state of a create that was killed at its first step.
    std::fs::create_dir(bundle.root().join("c"))?;
    assert_eq!(bundle.good(&["list", "-q"])?, format!("{}\n{}\nc\n", bundle.id("a"), bundle.id("b")));
    let rows: Vec<Value> = serde_json::from_str(&bundle.good(&["list", "--format", "json"])?)?;
    assert_eq!(
        rows.iter().map(|row| row["status"].as_str()).collect::<Vec<_>>(),
        [Some("created"), Some("running")]
    );
    assert!(rows.iter().all(|row| row["rootfs"] == json!(bundle.path().join("rootfs"))), "{rows:?}");
    let table = bundle.good(&["list"])?;
    assert!(table.starts_with("ID") && table.contains("created") && table.contains("creating"), "{table}");
    Ok(())
}

#[test]
fn callers_find_out_what_it_is() -> Result<()> {
    needs!("busybox");
    let bundle = Bundle::new(&["true"])?;
    let features: Value = serde_json::from_str(&bundle.good(&["features"])?)?;
    assert_eq!(
        (&features["ociVersionMin"], &features["linux"]["cgroup"]["v2"]),
        (&json!("1.0.0"), &json!(true))
    );
    // Called by the name of a link.
    let link = bundle.path().join("crisp-oci");
    std::os::unix::fs::symlink(crisp_e2e::machine::crisp(), &link)?;
    let version = Command::new(&link).arg("--version").output()?;
    let text = String::from_utf8_lossy(&version.stdout).into_owned();
    assert!(text.starts_with("crisp-oci version ") && text.contains("\nspec: 1."), "{text}");
    let run = Command::new(&link)
        .arg("--root")
        .arg(bundle.root())
        .args(["run", &bundle.id("linked")])
        .current_dir(bundle.path())
        .output()?;
    assert!(run.status.success(), "{run:?}");
    Ok(())
}

/// The first process of an image may run the runtime itself, and then could write to its file.
#[test]
fn a_container_cannot_write_to_the_runtime() -> Result<()> {
    needs!("busybox");
    let bundle = Bundle::new(&["sh", "-c", "sleep 1000"])?;
    bundle.good(&["create", "@exe"])?;
    assert_cannot_be_written(&bundle.state("@exe")?["pid"])?;
    // Until its exec, a process is this program. Here it stays so, because it waits for a connection to be
    // accepted.
    bundle.good(&["start", "@exe"])?;
    let (socket, pid_file) = (bundle.path().join("console"), bundle.path().join("exec.pid"));
    let listener = UnixListener::bind(&socket)?;
    // The backlog is then full, and the exec waits.
    rustix::net::listen(&listener, 0)?;
    let _waiting = std::os::unix::net::UnixStream::connect(&socket)?;
    let command = ["exec", "--tty", "--detach", "--console-socket", socket.to_str().unwrap(), "--pid-file"];
    let command = [&command[..], &[pid_file.to_str().unwrap(), "@exe", "true"]].concat();
    let mut exec = bundle.command(&command).stderr(Stdio::null()).spawn()?;
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    // The program itself runs from such a mount, and so do all processes that it starts.
    while assert_cannot_be_written(&json!(exec.id())).is_err() {
        assert!(std::time::Instant::now() < deadline, "exec runs from the mount of the host");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    exec.kill()?;
    exec.wait()?;
    Ok(())
}

/// Asserts that the mount of a process's program is read-only and is not that of the host, which may also be
/// read-only.
fn assert_cannot_be_written(pid: &Value) -> Result<()> {
    let path = format!("/proc/{pid}/exe");
    let mount = rustix::fs::statvfs(&path)?;
    let mount_of = |path: &std::path::Path| {
        let flags = rustix::fs::AtFlags::empty();
        rustix::fs::statx(rustix::fs::CWD, path, flags, rustix::fs::StatxFlags::MNT_ID)
            .map(|stat| stat.stx_mnt_id)
    };
    let own = mount_of(&crisp_e2e::machine::crisp())?;
    if mount.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY) && mount_of(path.as_ref())? != own {
        return Ok(());
    }
    Err(format!("{path} is on the host's mount, or can be written to").into())
}

/// Callers assume that after a failure no process is left.
#[test]
fn a_failed_exec_leaves_no_process() -> Result<()> {
    needs!("busybox");
    let bundle = Bundle::new(&["sleep", "1000"])?;
    bundle.good(&["run", "-d", "@web"])?;
    let error =
        bundle.refused(&["exec", "-d", "--pid-file", "/no/such/folder/pid", "@web", "sleep", "999"])?;
    assert!(error.contains("--pid-file /no/such/folder/pid"), "{error}");
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while bundle.good(&["ps", "@web"])?.contains("sleep 999") {
        assert!(std::time::Instant::now() < deadline, "{}", bundle.good(&["ps", "@web"])?);
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    assert_eq!(bundle.state("@web")?["status"], "running");
    Ok(())
}

#[test]
fn a_user_without_a_group_keeps_groups_and_umask() -> Result<()> {
    needs!("busybox");
    let bundle = Bundle::new(&[])?;
    bundle.change(&spec(&["sleep", "1000"]), |spec| {
        spec["process"]["user"] = json!({ "uid": 5, "gid": 6, "additionalGids": [77], "umask": 0o027 });
    })?;
    bundle.good(&["run", "-d", "@groups"])?;
    let exec = |user: &str| {
        bundle.good(&["exec", "--user", user, "@groups", "sh", "-c", "id -u; id -g; id -G; umask"])
    };
    assert_eq!(exec("1000")?, "1000\n6\n6 77\n0027\n");
    assert_eq!(exec("1000:7")?, "1000\n7\n7 77\n0027\n");
    Ok(())
}

/// The reader of the pipe may stop reading, for example `less`.
#[test]
fn an_exec_whose_output_is_not_read_does_not_hold_up_the_container() -> Result<()> {
    needs!("busybox");
    let bundle = Bundle::new(&["sleep", "1000"])?;
    bundle.good(&["run", "-d", "@web"])?;
    let (read, write) = std::io::pipe()?;
    let script = "trap 'exit 7' TERM; while :; do echo 0123456789012345678901234567890123456789; done";
    let mut exec = bundle.command(&["exec", "--tty", "@web", "sh", "-c", script]).stdout(write).spawn()?;
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    let mut last = 0;
    // Pages of the pipe may be partly full: it is full when no more bytes arrive.
    loop {
        std::thread::sleep(std::time::Duration::from_millis(200));
        let count = rustix::io::ioctl_fionread(&read)?;
        if count > 4096 && count == last {
            break;
        }
        last = count;
        assert!(std::time::Instant::now() < deadline, "the pipe is not filled: {count}");
    }
    bundle.good(&["kill", "@web", "KILL"])?;
    bundle.wait("@web", "stopped")?;
    bundle.good(&["delete", "@web"])?;
    drop(read);
    assert_eq!(exec.wait()?.code(), Some(137));
    Ok(())
}

#[test]
fn sockets_of_systemd_that_are_not_passed_on_are_named_in_the_log() -> Result<()> {
    needs!("busybox");
    let bundle = Bundle::new(&["true"])?;
    let log = bundle.path().join("log");
    let mut run = bundle.command(&["--log", log.to_str().unwrap(), "run", "@notify"]);
    run.env("NOTIFY_SOCKET", "/run/notify").env("LISTEN_FDS", "1");
    assert!(run.status()?.success());
    let text = std::fs::read_to_string(&log)?;
    assert!(text.contains("NOTIFY_SOCKET is set") && text.contains("LISTEN_FDS is set"), "{text}");
    Ok(())
}
