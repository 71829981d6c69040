//! `crisp oci`: hooks.

use std::process::Stdio;
use std::time::{Duration, Instant};

use crisp_e2e::bundle::{Bundle, spec};
use crisp_e2e::{Result, needs};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

#[test]
fn hooks_get_the_state_at_their_time() -> Result<()> {
    needs!("busybox");
    let bundle = Bundle::new(&[])?;
    let hook = |name: &str| {
        let line = format!("cat > {0}; echo $0 $HOOK >> {0}", bundle.path().join(name).display());
        json!([{ "path": "/bin/sh", "args": ["hook", "-c", line, "named"], "env": ["HOOK=set"], "timeout": 10 }])
    };
    let names = ["prestart", "createRuntime", "poststart", "poststop"];
    bundle.change(&spec(&["sleep", "1000"]), |spec| {
        names.iter().for_each(|name| spec["hooks"][name] = hook(name))
    })?;
    let text = |name: &str| std::fs::read_to_string(bundle.path().join(name)).unwrap_or_default();
    bundle.good(&["create", "@hooks"])?;
    let pid = bundle.state("@hooks")?["pid"].to_string();
    for name in ["prestart", "createRuntime"] {
        assert!(text(name).contains("\"creating\"") && text(name).contains(&pid), "{name}: {}", text(name));
        assert!(text(name).ends_with("named set\n"), "{name}: {}", text(name));
    }
    assert_eq!(text("poststart"), "");
    bundle.good(&["start", "@hooks"])?;
    assert!(text("poststart").contains("\"running\""), "{}", text("poststart"));
    bundle.good(&["delete", "--force", "@hooks"])?;
    assert!(text("poststop").contains("\"stopped\""), "{}", text("poststop"));
    Ok(())
}

fn shell(line: &str) -> Value {
    json!([{ "path": "/bin/sh", "args": ["hook", "-c", line], "env": ["PATH=/usr/bin:/bin"], "timeout": 20 }])
}

/// The state is larger than a pipe, which holds 64 KiB.
#[test]
fn a_hook_that_does_not_read_a_long_state_ends_at_its_timeout() -> Result<()> {
    needs!("busybox");
    let bundle = Bundle::new(&[])?;
    let with_hook = |hook: Value| {
        bundle.change(&spec(&["true"]), |spec| {
            spec["annotations"] = json!({ "long": "x".repeat(200 << 10) });
            spec["hooks"] = json!({ "createRuntime": [hook] });
        })
    };
    with_hook(json!({ "path": "/bin/sleep", "args": ["sleep", "1000"], "timeout": 1 }))?;
    let started = Instant::now();
    let error = bundle.refused(&["create", "@hook"])?;
    assert!(
        error.contains("hooks.createRuntime: /bin/sleep") && error.contains("no end within 1s"),
        "{error}"
    );
    assert!(started.elapsed() < Duration::from_secs(15), "{:?}", started.elapsed());
    assert_eq!(std::fs::read_dir(bundle.root())?.count(), 0);
    with_hook(shell("test $(wc -c) -gt 200000")[0].clone())?;
    bundle.good(&["run", "@whole"])?;
    Ok(())
}

#[test]
fn a_signal_during_a_hook_does_not_fail_run() -> Result<()> {
    needs!("busybox");
    let bundle = Bundle::new(&[])?;
    let begun = bundle.path().join("begun");
    bundle.change(&spec(&["sh", "-c", "exit 9"]), |spec| {
        spec["hooks"] = json!({ "createRuntime": shell(&format!("> {}; sleep 1", begun.display())) });
    })?;
    let mut run = bundle.command(&["run", "@signal"]).stderr(Stdio::null()).spawn()?;
    let deadline = Instant::now() + Duration::from_secs(20);
    while !begun.exists() {
        assert!(Instant::now() < deadline, "the hook does not begin");
        std::thread::sleep(Duration::from_millis(5));
    }
    kill_process(Pid::from_child(&run), Signal::WINCH)?;
    assert_eq!(run.wait()?.code(), Some(9));
    Ok(())
}

/// The hook process has no root of its own yet.
#[test]
fn a_container_is_not_created_during_its_hooks() -> Result<()> {
    needs!("busybox");
    let bundle = Bundle::new(&[])?;
    let crisp = format!("{} oci --root {}", crisp_e2e::machine::crisp().display(), bundle.root().display());
    let (id, folder) = (bundle.id("early"), bundle.path().display());
    let line =
        format!("{crisp} state {id} > {folder}/state; {crisp} exec {id} true 2> {folder}/exec || true");
    bundle
        .change(&spec(&["sleep", "1000"]), |spec| spec["hooks"] = json!({ "createRuntime": shell(&line) }))?;
    bundle.good(&["create", "@early"])?;
    let read = |name: &str| std::fs::read_to_string(bundle.path().join(name));
    let state: Value = serde_json::from_str(&read("state")?)?;
    assert_eq!((&state["status"], &state["pid"]), (&json!("creating"), &bundle.state("@early")?["pid"]));
    assert!(read("exec")?.contains("it is creating"), "{}", read("exec")?);
    assert_eq!(bundle.state("@early")?["status"], "created");
    bundle.good(&["start", "@early"])?;
    bundle.good(&["exec", "@early", "true"])?;
    Ok(())
}

#[test]
fn a_hook_after_the_start_can_change_the_container() -> Result<()> {
    needs!("busybox");
    let bundle = Bundle::new(&[])?;
    let crisp = format!("{} oci --root {}", crisp_e2e::machine::crisp().display(), bundle.root().display());
    let line = format!("{crisp} update --pids-limit 19 {0} && {crisp} pause {0}", bundle.id("web"));
    bundle.change(&spec(&["sleep", "1000"]), |spec| spec["hooks"] = json!({ "poststart": shell(&line) }))?;
    bundle.good(&["run", "-d", "@web"])?;
    assert_eq!(bundle.state("@web")?["status"], "paused");
    bundle.good(&["delete", "--force", "@web"])?;
    Ok(())
}

#[test]
fn hooks_change_the_root_of_a_container_and_run_in_it() -> Result<()> {
    needs!("busybox");
    let bundle = Bundle::new(&[])?;
    let (rootfs, seen) = (bundle.path().join("rootfs"), bundle.path().join("seen"));
    let (rootfs, seen) = (rootfs.display(), seen.display());
    let outside = format!(
        "mkdir {rootfs}/made && mount -t tmpfs none {rootfs}/made && echo file > {rootfs}/made/file && \
         cat > {seen} && readlink /proc/self/ns/mnt /proc/self/ns/uts >> {seen}"
    );
    let line = "cat > /made/state; echo $0 $A > /made/named";
    let mut outside = shell(&outside);
    outside[0]["env"] = json!(["PATH=/usr/sbin:/usr/bin:/sbin:/bin"]);
    let inside =
        json!([{ "path": "/bin/sh", "args": ["sh", "-c", line, "named"], "env": ["A=b"], "timeout": 20 }]);
    bundle.change(&spec(&["sh", "-c", "cat /made/file /made/named /made/state"]), |spec| {
        spec["hooks"] = json!({ "createContainer": outside, "startContainer": inside });
    })?;
    let output = bundle.good(&["run", "@inside"])?;
    let state = output.strip_prefix("file\nnamed b\n").ok_or_else(|| output.clone())?;
    let state: Value = serde_json::from_str(state)?;
    assert_eq!((&state["status"], &state["pid"]), (&json!("created"), &json!(1)));
    assert_eq!(state["bundle"], json!(bundle.path()));
    let seen = std::fs::read_to_string(bundle.path().join("seen"))?;
    assert!(seen.contains("\"creating\""), "{seen}");
    for ns in ["mnt", "uts"] {
        let own = std::fs::read_link(format!("/proc/self/ns/{ns}"))?.display().to_string();
        assert!(!seen.contains(&own) && seen.contains(ns), "{seen}");
    }
    // The mount was only in the container.
    assert_eq!(std::fs::read_dir(bundle.path().join("rootfs/made"))?.count(), 0);
    Ok(())
}

#[test]
fn a_hook_in_the_container_that_fails_fails_the_start() -> Result<()> {
    needs!("busybox");
    let bundle = Bundle::new(&[])?;
    bundle.change(&spec(&["echo", "ran"]), |spec| {
        let hook = json!([{ "path": "/bin/sh", "args": ["sh", "-c", "echo no card; exit 7"] }]);
        spec["hooks"] = json!({ "startContainer": hook });
    })?;
    bundle.good(&["create", "@fails"])?;
    let error = bundle.refused(&["start", "@fails"])?;
    assert!(error.contains("hooks.startContainer: /bin/sh: exit code 7: no card"), "{error}");
    assert_eq!(bundle.state("@fails")?["status"], "stopped");
    bundle.good(&["delete", "@fails"])?;
    Ok(())
}

#[test]
fn a_create_that_fails_in_its_hooks_runs_those_after_the_end() -> Result<()> {
    needs!("busybox");
    let bundle = Bundle::new(&[])?;
    let seen = bundle.path().join("seen");
    let say = |word: &str| shell(&format!("echo {word} >> {}", seen.display()));
    bundle.change(&spec(&["true"]), |spec| {
        let create = json!([say("made")[0], shell("exit 3")[0]]);
        spec["hooks"] = json!({ "createRuntime": create, "poststop": say("stopped") });
    })?;
    let error = bundle.refused(&["create", "@half"])?;
    assert!(error.contains("hooks.createRuntime: /bin/sh: exit code 3"), "{error}");
    assert_eq!(std::fs::read_to_string(&seen)?, "made\nstopped\n");
    assert_eq!(std::fs::read_dir(bundle.root())?.count(), 0);
    Ok(())
}

#[test]
fn all_kinds_of_hooks_are_features() -> Result<()> {
    needs!("busybox");
    let bundle = Bundle::new(&[])?;
    let features: Value = serde_json::from_str(&bundle.good(&["features"])?)?;
    let kinds = ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];
    assert_eq!(features["hooks"], json!(kinds));
    Ok(())
}

#[test]
fn a_hook_in_a_user_namespace_is_its_root() -> Result<()> {
    needs!("busybox");
    let bundle = Bundle::new(&[])?;
    for path in ["", "rootfs", "rootfs/bin"] {
        std::os::unix::fs::chown(bundle.path().join(path), Some(100_000), Some(100_000))?;
    }
    std::fs::set_permissions(bundle.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let made = bundle.path().join("rootfs/made");
    let line = format!(
        "mkdir {0} && mount -t tmpfs none {0} && cat /proc/self/uid_map > {0}/map && id -u >> {0}/map",
        made.display()
    );
    bundle.change(&spec(&["sh", "-c", "ls -ln / | grep made; cat /made/map"]), |spec| {
        spec["linux"]["namespaces"].as_array_mut().unwrap().push(json!({ "type": "user" }));
        for field in ["uidMappings", "gidMappings"] {
            spec["linux"][field] = json!([{ "containerID": 0, "hostID": 100_000, "size": 65_536 }]);
        }
        spec["hooks"] = json!({ "createContainer": shell(&line) });
        spec["hooks"]["createContainer"][0]["env"] = json!(["PATH=/usr/sbin:/usr/bin:/sbin:/bin"]);
    })?;
    let text = bundle.good(&["run", "@users"])?;
    let words: Vec<&str> = text.split_whitespace().collect();
    assert_eq!((words[2], words[3]), ("0", "0"), "{text}");
    assert!(text.ends_with("0     100000      65536\n0\n"), "{text}");
    Ok(())
}
