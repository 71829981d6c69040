//! `crisp oci` on a bundle: from create to delete.

use std::path::Path;
use std::process::Stdio;

use crisp_e2e::bundle::{Bundle, spec};
use crisp_e2e::{Result, needs};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

/// The cgroups with this name, in any hierarchy.
fn cgroups(name: &str) -> Vec<String> {
    let find =
        std::process::Command::new("find").args(["/sys/fs/cgroup", "-type", "d", "-name", name]).output();
    let text = String::from_utf8_lossy(&find.expect("find is installed").stdout).into_owned();
    text.lines().map(str::to_owned).collect()
}

#[test]
fn a_container_waits_for_its_start_and_is_deleted_after_its_end() -> Result<()> {
    needs!("busybox");
    let bundle = Bundle::new(&["sh", "-c", "echo pid $$ in $(hostname); exec sleep 1000"])?;
    let pid_file = bundle.path().join("pid");
    let output = bundle.path().join("output");
    let mut create = bundle.command(&["create", "--pid-file", pid_file.to_str().unwrap(), "@life"]);
    assert!(create.stdout(std::fs::File::create(&output)?).status()?.success());
    let state = bundle.state("@life")?;
    let pid = std::fs::read_to_string(&pid_file)?;
    assert_eq!((&state["status"], &state["pid"]), (&json!("created"), &json!(pid.parse::<i32>()?)));
    assert_eq!((&state["id"], &state["ociVersion"]), (&json!(bundle.id("life")), &json!("1.2.0")));
    assert_eq!(state["bundle"], json!(bundle.path()));
    assert_eq!(std::fs::read_to_string(&output)?, "", "the program runs before its start");
    assert!(!cgroups(&format!("crisp-oci-{}", bundle.id("life"))).is_empty());

    bundle.good(&["start", "@life"])?;
    bundle.wait("@life", "running")?;
    assert!(bundle.refused(&["delete", "@life"])?.contains("running"));
    assert_eq!(bundle.state("@life")?["status"], "running");
    bundle.good(&["kill", "@life", "KILL"])?;
    bundle.wait("@life", "stopped")?;
    assert_eq!(std::fs::read_to_string(&output)?, "pid 1 in bundle\n");
    assert_eq!(bundle.state("@life")?["pid"], 0);

    bundle.good(&["delete", "@life"])?;
    assert!(bundle.refused(&["state", "@life"])?.contains("does not exist"));
    assert_eq!(cgroups(&format!("crisp-oci-{}", bundle.id("life"))), Vec::<String>::new());
    assert_eq!(std::fs::read_dir(bundle.root())?.count(), 0);
    Ok(())
}

#[test]
fn run_passes_output_and_exit_code_through() -> Result<()> {
    needs!("busybox");
    let bundle = Bundle::new(&["sh", "-c", "echo out $COLOUR; echo err >&2; exit 42"])?;
    let output = bundle.oci(&["run", "@once"])?;
    assert_eq!(output.status.code(), Some(42), "{output:?}");
    assert_eq!((output.stdout, output.stderr), (b"out blue\n".to_vec(), b"err\n".to_vec()));
    assert!(bundle.refused(&["state", "@once"])?.contains("does not exist"));
    bundle.change(&spec(&["sh", "-c", "kill -9 $$; sh -c 'kill -9 $$'; exit $?"]), |_| {})?;
    assert_eq!(bundle.oci(&["run", "@killed"])?.status.code(), Some(137));
    Ok(())
}

#[test]
fn a_signal_to_run_is_passed_on() -> Result<()> {
    needs!("busybox");
    let bundle = Bundle::new(&[
        "sh",
        "-c",
        "trap 'echo got it; exit 7' TERM; echo ready; while :; do sleep 0.1; done",
    ])?;
    let mut child = bundle.command(&["run", "@signal"]).stdout(Stdio::piped()).spawn()?;
    bundle_has_printed(&mut child, "ready")?;
    kill_process(Pid::from_child(&child), Signal::TERM)?;
    assert_eq!(child.wait()?.code(), Some(7));
    assert_eq!(std::fs::read_dir(bundle.root())?.count(), 0);
    Ok(())
}

fn bundle_has_printed(child: &mut std::process::Child, word: &str) -> Result<()> {
    use std::io::BufRead as _;
    let stdout = child.stdout.as_mut().ok_or("no output")?;
    let mut lines = std::io::BufReader::new(stdout);
    let mut line = String::new();
    lines.read_line(&mut line)?;
    if line.trim() == word { Ok(()) } else { Err(format!("{line:?} instead of {word}").into()) }
}

#[test]
fn a_program_that_is_not_there_fails_create_and_leaves_nothing() -> Result<()> {
    needs!("busybox");
    let bundle = Bundle::new(&["no-such-program"])?;
    let log = bundle.path().join("log.json");
    let args = ["--log", log.to_str().unwrap(), "--log-format", "json", "create", "@missing"];
    let error = bundle.refused(&args)?;
    assert!(
        error.contains("no-such-program") && error.contains("executable file not found in $PATH"),
        "{error}"
    );
    let text = std::fs::read_to_string(&log)?;
    let last: serde_json::Value = serde_json::from_str(text.lines().last().unwrap())?;
    assert_eq!(last["level"], "error");
    assert!(last["msg"].as_str().unwrap().contains("no-such-program"), "{last}");
    assert_eq!(std::fs::read_dir(bundle.root())?.count(), 0);
    assert_eq!(cgroups(&format!("crisp-oci-{}", bundle.id("missing"))), Vec::<String>::new());
    Ok(())
}

#[test]
fn namespaces_are_those_of_the_spec() -> Result<()> {
    needs!("busybox");
    let bundle = Bundle::new(&["sh", "-c", "for n in net ipc uts pid; do readlink /proc/self/ns/$n; done"])?;
    let own = |name: &str| std::fs::read_link(format!("/proc/self/ns/{name}")).unwrap();
    let names = ["net", "ipc", "uts", "pid"];
    let lines = |text: &str| text.lines().map(Path::new).map(Path::to_owned).collect::<Vec<_>>();
    let new = lines(&bundle.good(&["run", "@new"])?);
    assert!(new.iter().zip(names).all(|(found, name)| *found != own(name)), "{new:?}");
    // Namespaces that are not listed are those of the host.
    bundle.change(
        &spec(&["sh", "-c", "for n in net ipc uts pid; do readlink /proc/self/ns/$n; done"]),
        |spec| {
            spec["linux"]["namespaces"] = json!([{ "type": "mount" }, { "type": "cgroup" }]);
            spec["hostname"] = json!("");
        },
    )?;
    assert_eq!(lines(&bundle.good(&["run", "@host"])?), names.map(own));
    // Namespaces with a path: those of another container.
    bundle.change(&spec(&["sleep", "1000"]), |_| {})?;
    bundle.good(&["run", "-d", "@first"])?;
    let pid = bundle.state("@first")?["pid"].clone();
    let of_first = |name: &str| std::fs::read_link(format!("/proc/{pid}/ns/{name}")).unwrap();
    bundle.change(
        &spec(&["sh", "-c", "for n in net ipc uts pid; do readlink /proc/self/ns/$n; done"]),
        |spec| {
            let path =
                |kind: &str, name: &str| json!({ "type": kind, "path": format!("/proc/{pid}/ns/{name}") });
            spec["linux"]["namespaces"] = json!([
                path("network", "net"), path("ipc", "ipc"), path("uts", "uts"), path("pid", "pid"),
                { "type": "mount" }, { "type": "cgroup" },
            ]);
        },
    )?;
    assert_eq!(lines(&bundle.good(&["run", "@second"])?), names.map(of_first));
    Ok(())
}

#[test]
fn a_user_namespace_has_its_own_root() -> Result<()> {
    needs!("busybox");
    let bundle = Bundle::new(&[])?;
    let script = "id -u; cat /proc/self/uid_map";
    for path in ["", "rootfs", "rootfs/bin"] {
        std::os::unix::fs::chown(bundle.path().join(path), Some(100_000), Some(100_000))?;
    }
    std::fs::set_permissions(bundle.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    bundle.change(&spec(&["sh", "-c", script]), |spec| {
        spec["linux"]["namespaces"].as_array_mut().unwrap().push(json!({ "type": "user" }));
        for field in ["uidMappings", "gidMappings"] {
            spec["linux"][field] = json!([{ "containerID": 0, "hostID": 100_000, "size": 65_536 }]);
        }
    })?;
    let text = bundle.good(&["run", "@user"])?;
    let words: Vec<&str> = text.split_whitespace().collect();
    assert_eq!(words, ["0", "0", "100000", "65536"]);
    Ok(())
}

#[test]
fn limits_and_kernel_settings_are_those_of_the_spec() -> Result<()> {
    needs!("busybox");
    let bundle = Bundle::new(&[])?;
    let parent = format!("crisp-oci-test-{}", bundle.id("limits"));
    bundle.change(&spec(&["sleep", "1000"]), |spec| {
        spec["linux"]["resources"]["pids"] = json!({ "limit": 17 });
        spec["linux"]["cgroupsPath"] = json!(format!("/{parent}/limits"));
        spec["linux"]["sysctl"] = json!({ "net.ipv4.ip_unprivileged_port_start": "80" });
        spec["domainname"] = json!("example");
    })?;
    bundle.good(&["run", "-d", "@limits"])?;
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let pids = &format!("/sys/fs/cgroup/pids/{parent}/limits/pids.max");
    let limit = if Path::new(pids).exists() {
        read(pids)
    } else {
        read(&format!("/sys/fs/cgroup/{parent}/limits/pids.max"))
    };
    assert_eq!(limit.trim(), "17");
    let inside = |path: &str| bundle.good(&["exec", "@limits", "cat", path]);
    assert_eq!(inside("/proc/sys/net/ipv4/ip_unprivileged_port_start")?.trim(), "80");
    assert_eq!(inside("/proc/sys/kernel/domainname")?.trim(), "example");
    bundle.good(&["update", "--pids-limit", "23", "@limits"])?;
    let limit = if Path::new(pids).exists() {
        read(pids)
    } else {
        read(&format!("/sys/fs/cgroup/{parent}/limits/pids.max"))
    };
    assert_eq!(limit.trim(), "23");
    let stats: serde_json::Value = serde_json::from_str(&bundle.good(&["events", "--stats", "@limits"])?)?;
    assert_eq!((&stats["type"], &stats["data"]["pids"]["limit"]), (&json!("stats"), &json!(23)));
    bundle.good(&["delete", "--force", "@limits"])?;
    for parent in cgroups(&parent) {
        let _ = std::fs::remove_dir(parent);
    }
    Ok(())
}

#[test]
fn descriptors_are_passed_on_only_when_asked_for() -> Result<()> {
    needs!("busybox");
    let bundle = Bundle::new(&["sh", "-c", "ls /proc/self/fd | grep -c .; cat <&3"])?;
    std::fs::write(bundle.path().join("given"), "from the caller\n")?;
    let run = |options: &str, id: &str| {
        let line = format!(
            "exec 3<given; exec {} oci --root root run {options} {id}",
            crisp_e2e::machine::crisp().display()
        );
        std::process::Command::new("sh").args(["-c", &line]).current_dir(bundle.path()).output()
    };
    let with = run("--preserve-fds 1", "with")?;
    assert_eq!(String::from_utf8_lossy(&with.stdout), "5\nfrom the caller\n", "{with:?}");
    let without = run("", "without")?;
    assert_eq!(String::from_utf8_lossy(&without.stdout), "4\n", "{without:?}");
    let more = run("--preserve-fds 2", "more")?;
    assert!(String::from_utf8_lossy(&more.stderr).contains("descriptor 4 is not open"), "{more:?}");
    Ok(())
}

/// Its caller waits for it. Here the deletion fails, because a process that is not the container's is in its
/// cgroup.
#[test]
fn run_keeps_the_exit_code_when_the_deletion_fails() -> Result<()> {
    needs!("busybox");
    let bundle = Bundle::new(&["sh", "-c", "trap 'exit 42' TERM; echo ready; while :; do sleep 0.1; done"])?;
    let mut run = bundle.command(&["run", "@code"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    bundle_has_printed(&mut run, "ready")?;
    let mut stranger = std::process::Command::new("sleep").arg("1000").spawn()?;
    for folder in cgroups(&format!("crisp-oci-{}", bundle.id("code"))) {
        std::fs::write(format!("{folder}/cgroup.procs"), stranger.id().to_string())?;
    }
    kill_process(Pid::from_child(&run), Signal::TERM)?;
    let output = run.wait_with_output();
    stranger.kill()?;
    stranger.wait()?;
    let output = output?;
    assert_eq!(output.status.code(), Some(42), "{output:?}");
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(error.contains("could not be deleted") && error.contains("is not of container"), "{error}");
    bundle.good(&["delete", "@code"])?;
    Ok(())
}

#[test]
fn run_keeps_the_exit_code_when_another_command_deletes_the_container() -> Result<()> {
    needs!("busybox");
    let bundle = Bundle::new(&["sh", "-c", "echo ready; exec sleep 1000"])?;
    let mut run = bundle.command(&["run", "@code"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    bundle_has_printed(&mut run, "ready")?;
    bundle.good(&["delete", "--force", "@code"])?;
    let output = run.wait_with_output()?;
    assert_eq!(output.status.code(), Some(137), "{output:?}");
    assert!(!String::from_utf8_lossy(&output.stderr).contains("deleted"), "{output:?}");
    Ok(())
}

/// Without a PID namespace of its own, the orphans of a container become children of `run`, and count as
/// processes of the container until they are reaped.
#[test]
fn run_reaps_the_orphans_of_a_container() -> Result<()> {
    needs!("busybox");
    let bundle = Bundle::new(&[])?;
    let script = "for i in 0 1 2 3 4 5 6 7; do (true & true); done; sleep 1; echo ready; exec sleep 1000";
    bundle.change(&spec(&["sh", "-c", script]), |spec| {
        spec["linux"]["namespaces"].as_array_mut().unwrap().retain(|namespace| namespace["type"] != "pid");
    })?;
    let mut run = bundle.command(&["run", "@orphans"]).stdout(Stdio::piped()).spawn()?;
    bundle_has_printed(&mut run, "ready")?;
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while zombies_of(run.id()) > 0 {
        assert!(std::time::Instant::now() < deadline, "{} zombies", zombies_of(run.id()));
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    bundle.good(&["kill", "@orphans", "KILL"])?;
    assert_eq!(run.wait()?.code(), Some(137));
    Ok(())
}

fn zombies_of(parent: u32) -> usize {
    let stat = |entry: std::fs::DirEntry| std::fs::read_to_string(entry.path().join("stat")).ok();
    let all = std::fs::read_dir("/proc").expect("there is a /proc").flatten().filter_map(stat);
    all.filter(|stat| {
        let (_, rest) = stat.rsplit_once(") ").unwrap_or_default();
        rest.starts_with(&format!("Z {parent} "))
    })
    .count()
}
