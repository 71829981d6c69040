//! The command line, as users type it.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use crisp_e2e::machine::crisp;
use crisp_e2e::{Image, Lab, Machine, Result, Setup, needs, request};

fn manifest(image: &str, second: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: talk}}\nspec:\n  restartPolicy: Never\n  terminationGracePeriodSeconds: 2\n  containers:\n  - name: web\n    image: {image}\n    command: [sh, -c, 'trap \"exit 0\" TERM; mkdir /w; echo hello pod > /w/index.html; httpd -f -p 8080 -h /w & wait']\n  - name: visitor\n    image: {image}\n    command: [sh, -c, '{second}']\n"
    )
}

/// `crisp run` on folders of its own, with the machine's registry.
fn run(machine: &Machine, yaml: &str) -> Result<Command> {
    run_with_cni(machine, yaml, Path::new("/nonexistent"))
}

/// `crisp run` with CNI configurations and plugins in the folder `cni`.
fn run_with_cni(machine: &Machine, yaml: &str, cni: &Path) -> Result<Command> {
    let folder = machine.folder().join("standalone");
    std::fs::create_dir_all(&folder)?;
    std::fs::write(folder.join("pod.yaml"), yaml)?;
    let mut command = Command::new(crisp());
    command.arg("run").arg(folder.join("pod.yaml"));
    for name in ["root", "state"] {
        command.arg(format!("--{name}")).arg(folder.join(name));
    }
    let bridge = format!("{}r", machine.bridge());
    command.args(["--bridge-name", &bridge, "--pod-cidr", "10.249.249.0/24"]);
    command.arg("--cni-conf-dir").arg(cni).arg("--cni-bin-dir").arg(cni);
    Ok(command)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_runs_without_a_server() -> Result<()> {
    needs!("docker-registry", "busybox");
    let machine = Machine::start_with(Setup::default()).await?;
    let image = machine.registry().push("busybox", "1", &Image::busybox().build())?;
    let visit = "for i in 1 2 3 4 5 6 7 8 9; do wget -q -O - http://127.0.0.1:8080/ && kill_web=1 && break; sleep 0.2; done; exit 6";
    let mut command = run(&machine, &manifest(&image, visit))?;
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    // The web container serves until it gets a signal.
    let deadline = std::time::Instant::now() + Duration::from_secs(15);
    tokio::time::sleep(Duration::from_secs(3)).await;
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT)?;
    while child.try_wait()?.is_none() {
        assert!(std::time::Instant::now() < deadline, "does not end on Ctrl-C");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let output = child.wait_with_output()?;
    let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(text.lines().any(|l| l.contains("visitor") && l.contains("hello pod")), "{text}\n{errors}");
    assert_eq!(output.status.code(), Some(6), "{text}\n{errors}");
    let pods = std::fs::read_dir(machine.folder().join("standalone/root/pods")).map_or(0, Iterator::count);
    assert_eq!(pods, 0);
    assert!(!Path::new(&format!("/sys/class/net/{}r", machine.bridge())).exists());
    machine.close().await
}

/// With a CNI plugin that never answers, the start of a pod hangs.
#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_a_plugin_holds_up_ends_on_sigterm_and_leaves_nothing() -> Result<()> {
    needs!("docker-registry", "busybox");
    let machine = Machine::start_with(Setup::default()).await?;
    let image = machine.registry().push("busybox", "1", &Image::busybox().build())?;
    let folder = machine.folder().join("standalone/cni");
    let mut command = run_with_cni(&machine, &manifest(&image, "true"), &folder)?;
    std::fs::create_dir_all(&folder)?;
    let (plugin, called) = (folder.join("stuck"), folder.join("called"));
    let script =
        format!("#!/bin/sh\n[ $CNI_COMMAND = ADD ] || exit 0\necho > {}\nsleep 300\n", called.display());
    std::fs::write(&plugin, script)?;
    std::fs::set_permissions(&plugin, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let config = r#"{"cniVersion":"1.0.0","name":"stuck","plugins":[{"type":"stuck"}]}"#;
    std::fs::write(folder.join("10-stuck.conflist"), config)?;
    let mut child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn()?;
    let wait = async |what: &str, is_so: &mut dyn FnMut() -> Result<bool>| -> Result<()> {
        let begun = std::time::Instant::now();
        while !is_so()? {
            assert!(begun.elapsed() < Duration::from_secs(15), "{what}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    };
    wait("the plugin is not called", &mut || Ok(called.exists())).await?;
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::TERM)?;
    wait("does not end on SIGTERM", &mut || Ok(child.try_wait()?.is_some())).await?;
    let output = child.wait_with_output()?;
    assert_eq!(output.status.code(), Some(143), "{}", String::from_utf8_lossy(&output.stderr));
    let pods = std::fs::read_dir(machine.folder().join("standalone/root/pods")).map_or(0, Iterator::count);
    assert_eq!(pods, 0);
    machine.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_ends_a_run_whose_server_does_not_open() -> Result<()> {
    needs!("docker-registry", "busybox");
    let machine = Machine::start_with(Setup::default()).await?;
    let root = machine.folder().join("standalone/root");
    let folder = root.join("containers").join("a".repeat(64));
    std::fs::create_dir_all(&folder)?;
    // As that of a server.
    std::fs::set_permissions(&root, std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
    // Opening a pipe waits for a writer, which never comes.
    let mode = rustix::fs::Mode::RWXU;
    let record = folder.join("container.json");
    rustix::fs::mknodat(rustix::fs::CWD, &record, rustix::fs::FileType::Fifo, mode, 0)?;
    let mut command = run(&machine, &manifest("example.test/x:1", "true"))?;
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(child.try_wait()?.is_none(), "nothing keeps it from its start");
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT)?;
    let begun = std::time::Instant::now();
    while child.try_wait()?.is_none() {
        if begun.elapsed() > Duration::from_secs(15) {
            child.kill()?;
            return Err("does not end on Ctrl-C".into());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let output = child.wait_with_output()?;
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(130), "{message}");
    assert!(message.contains("the server does not open"), "{message}");
    machine.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_manifest_asks_in_vain_is_named() -> Result<()> {
    needs!("docker-registry", "busybox");
    let machine = Machine::start_with(Setup::default()).await?;
    let base = manifest("example.test/x:1", "true");
    for (yaml, word) in [
        (base.replace("spec:\n", "spec:\n  nodeSelektor: {}\n"), "spec.nodeSelektor"),
        (base.replace("spec:\n", "spec:\n  schedulerName: mine\n"), "spec.schedulerName"),
        (base.replace("spec:\n", "spec:\n  hostUsers: false\n"), "spec.hostUsers"),
        (base.replace("kind: Pod", "kind: DaemonSet"), "kind"),
        ("not: [yaml".to_owned(), "yaml"),
    ] {
        let output = run(&machine, &yaml)?.stdin(Stdio::null()).output()?;
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && errors.contains(word), "{word}: {errors}");
    }
    machine.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn everyday_commands() -> Result<()> {
    needs!("docker-registry", "busybox");
    let mut lab = Lab::start().await?;
    let (sandbox, pod) = lab.pod("daily").await?;
    let line = "echo first; echo second >&2; sleep 1000";
    let id = lab.client.launch(&pod, &request::shell("worker", &lab.image, line), &sandbox).await?;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let text = |args: &[&str]| -> Result<String> {
        let output = lab.machine.crisp(args)?;
        if !output.status.success() {
            return Err(format!("{args:?}: {}", String::from_utf8_lossy(&output.stderr)).into());
        }
        Ok(String::from_utf8(output.stdout)?)
    };
    let ps = text(&["ps"])?;
    assert!(ps.contains("worker") && ps.contains("daily") && ps.contains(&id[..12]), "{ps}");
    assert!(text(&["images"])?.contains("busybox"));
    let info = text(&["info"])?;
    let network = info.lines().find(|line| line.contains("NetworkReady")).unwrap_or_default();
    assert!(network.contains(&format!("built-in network on bridge {},", lab.machine.bridge())), "{info}");
    assert_eq!(text(&["logs", "worker"])?, "first\n");
    assert_eq!(text(&["exec", &id[..12], "echo", "inside"])?, "inside\n");
    let failed = lab.machine.crisp(&["exec", "worker", "sh", "-c", "exit 9"])?;
    assert_eq!(failed.status.code(), Some(9));
    text(&["stop", "worker", "--timeout", "0"])?;
    assert!(!text(&["ps"])?.contains("worker") && text(&["ps", "-a"])?.contains("worker"));
    text(&["rm", "worker"])?;
    assert!(!text(&["ps", "-a"])?.contains("worker"));
    let unknown = lab.machine.crisp(&["logs", "no-such-thing"])?;
    assert!(!unknown.status.success() && String::from_utf8_lossy(&unknown.stderr).contains("no-such-thing"));
    lab.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_come_from_file_and_flag_and_are_told() -> Result<()> {
    needs!();
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("crisp.toml");
    std::fs::write(&file, "bridge-name = \"fromfile0\"\nlog-level = \"debug\"\n")?;
    let config = |args: &[&str]| Command::new(crisp()).arg("config").args(args).output();
    let path = file.display().to_string();
    let output = config(&["--config", &path, "--log-level", "warn"])?;
    let text = String::from_utf8(output.stdout)?;
    let line = |key: &str| text.lines().find(|l| l.starts_with(key)).unwrap_or_default().to_owned();
    assert!(line("bridge-name").contains("fromfile0") && line("bridge-name").contains(&path), "{text}");
    assert!(line("log-level").contains("warn") && line("log-level").contains("--log-level"), "{text}");
    assert!(line("root").contains("/var/lib/crisp") && line("root").contains("default"), "{text}");
    std::fs::write(&file, "brigde-name = \"x\"\n")?;
    let refused = config(&["--config", &path])?;
    let errors = String::from_utf8_lossy(&refused.stderr);
    assert!(
        !refused.status.success() && errors.contains("brigde-name") && errors.contains(&path),
        "{errors}"
    );
    assert!(!config(&["--no-such-flag"])?.status.success());
    Ok(())
}
