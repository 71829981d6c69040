//! Hooks of CDI devices.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use crisp_proto::runtime::v1 as proto;
use serde_json::{Value, json};

use crate::lab::{Lab, lab, security, shell};
use crate::restart::over_a_restart;

const PATH: &str = "PATH=/usr/sbin:/usr/bin:/sbin:/bin";

/// A hook that is a line for the host's shell. `$state` is its standard input, `$pid` and `$root` are from that.
fn hook(kind: &str, line: &str) -> Value {
    let line = format!(
        r#"state=$(cat); of() {{ echo "$state" | sed "s/.*\"$1\":\"*\([^\",}}]*\).*/\1/"; }}; pid=$(of pid); bundle=$(of bundle); root=$bundle/rootfs; {line}"#
    );
    json!({ "hookName": kind, "path": "/bin/sh", "args": ["hook", "-c", line], "env": [PATH], "timeout": 20 })
}

fn write_spec(lab: &Lab, hooks: &[Value]) {
    let folder = lab.dir.path().join("cdi");
    std::fs::create_dir_all(&folder).unwrap();
    let device = json!({ "name": "0", "containerEdits": { "hooks": hooks } });
    let spec = json!({ "cdiVersion": "0.8.0", "kind": "vendor.test/gpu", "devices": [device] });
    std::fs::write(folder.join("vendor.json"), spec.to_string()).unwrap();
}

fn with_device(line: &str) -> proto::ContainerConfig {
    let device = proto::CdiDevice { name: "vendor.test/gpu=0".into() };
    proto::ContainerConfig { cdi_devices: vec![device], ..shell("app", line) }
}

fn seen(lab: &Lab) -> PathBuf {
    lab.dir.path().join("seen")
}

fn read(lab: &Lab) -> String {
    std::fs::read_to_string(seen(lab)).unwrap_or_default()
}

async fn until_seen(lab: &Lab, text: &str) {
    let begun = Instant::now();
    while !read(lab).contains(text) {
        assert!(begun.elapsed() < Duration::from_secs(20), "{text} in {}", read(lab));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn bundle(lab: &Lab, id: &str) -> PathBuf {
    lab.dir.path().join("root/containers").join(id).join("bundle")
}

/// As hooks that update the cache of libraries do.
const MAKE: &str = "grep -q '\"path\":\"rootfs\"' $bundle/config.json && echo made > $root/etc/made && \
     ln -s made $root/etc/link && chroot $root /bin/sh -c 'cat /etc/link > /etc/cache; ls /opt/card >> /etc/cache' && \
     mount -t tmpfs none $root/home && echo mounted > $root/home/file && \
     unshare -m --propagation unchanged sh -c \"cd $root && pivot_root . . && grep -q made /etc/made\"";

#[tokio::test]
async fn a_hook_of_the_host_changes_the_root_before_the_container_has_it() {
    let lab = lab!();
    let folder = lab.dir.path().join("card");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("library"), "").unwrap();
    let namespaces = format!(
        "for ns in mnt net ipc uts cgroup; do readlink /proc/self/ns/$ns /proc/$pid/ns/$ns; done > {}",
        seen(&lab).display()
    );
    write_spec(&lab, &[hook("createContainer", MAKE), hook("createContainer", &namespaces)]);
    let pod = lab.pod("hooks").await;
    let mut config = with_device("sleep 1000");
    config.mounts.push(proto::Mount {
        host_path: folder.to_string_lossy().into_owned(),
        container_path: "/opt/card".into(),
        ..Default::default()
    });
    let id = lab.run(&pod, config).await;
    assert_eq!(lab.sh(&id, "cat /etc/link /etc/cache /home/file").await, "made\nmade\nlibrary\nmounted\n");
    let own = |ns: &str| std::fs::read_link(format!("/proc/self/ns/{ns}")).unwrap().display().to_string();
    let links = read(&lab);
    let links: Vec<&str> = links.lines().collect();
    assert_eq!(links.len(), 10, "{links:?}");
    for (pair, ns) in links.chunks(2).zip(["mnt", "net", "ipc", "uts", "cgroup"]) {
        assert_eq!(pair[0], pair[1], "{ns}");
        // The pod is in the network of the host, and has its name.
        assert_eq!(pair[0] == own(ns), matches!(ns, "net" | "uts"), "{ns}");
    }
    // Nothing is mounted on the host, and nothing of the host is left in the container.
    assert!(std::fs::read_dir(bundle(&lab, &id).join("rootfs")).unwrap().next().is_none());
    let mounts = lab.sh(&id, "cat /proc/self/mountinfo").await;
    let places: Vec<&str> = mounts.lines().filter_map(|line| line.split(' ').nth(4)).collect();
    assert!(
        places.iter().all(|place| !place.contains("/rootfs") && !place.starts_with("/tmp")),
        "{places:?}"
    );
    assert_eq!(lab.sh(&id, "ls /usr 2>/dev/null || echo none").await, "none\n");
    lab.remove_pod(&pod).await;
}

#[tokio::test]
async fn hooks_of_all_kinds_run_at_their_moments_with_the_state() {
    let lab = lab!();
    let line = |kind: &str| {
        let log = seen(&lab);
        hook(
            kind,
            &format!(
                "echo {kind} $(of status) $(of id) $(readlink /proc/self/ns/mnt) $pid >> {0}",
                log.display()
            ),
        )
    };
    let started = json!({ "hookName": "startContainer", "path": "/bin/sh", "env": ["A=b"],
        "args": ["sh", "-c", "cat > /tmp/state; echo $A $(id -u) $(readlink /proc/self/ns/pid) $$ > /tmp/started"] });
    let kinds = ["poststop", "poststart", "createContainer", "createRuntime", "prestart"];
    let hooks: Vec<Value> = kinds.into_iter().map(line).chain([started]).collect();
    write_spec(&lab, &hooks);
    let pod = lab.pod("kinds").await;
    let mut config = with_device("cat /tmp/started; sleep 1000");
    security(&mut config).run_as_user = Some(proto::Int64Value { value: 1000 });
    config.mounts.push(proto::Mount {
        host_path: {
            let tmp = lab.dir.path().join("tmp");
            std::fs::create_dir(&tmp).unwrap();
            std::fs::set_permissions(&tmp, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
            tmp.to_string_lossy().into_owned()
        },
        container_path: "/tmp".into(),
        ..Default::default()
    });
    let id = lab.run(&pod, config).await;
    let log = read(&lab);
    let own = std::fs::read_link("/proc/self/ns/mnt").unwrap().display().to_string();
    let pid = lab.info(&id).await["pid"].to_string();
    let inside = std::fs::read_link(format!("/proc/{pid}/ns/mnt")).unwrap().display().to_string();
    let expected = [
        format!("prestart creating {id} {own} {pid}"),
        format!("createRuntime creating {id} {own} {pid}"),
        format!("createContainer creating {id} {inside} {pid}"),
        format!("poststart running {id} {own} {pid}"),
    ];
    assert_eq!(log.lines().collect::<Vec<_>>(), expected);
    // With the user and the PID namespace of the container, whose first process waits for it.
    lab.until_log("app", "b 1000 pid:").await;
    let state: Value = serde_json::from_str(&lab.sh(&id, "cat /tmp/state").await).unwrap();
    assert_eq!((&state["status"], &state["pid"], &state["id"]), (&json!("created"), &json!(1), &json!(id)));
    let spec: Value =
        serde_json::from_slice(&std::fs::read(bundle(&lab, &id).join("config.json")).unwrap()).unwrap();
    assert_eq!(spec["hooks"].as_object().unwrap().len(), 6);
    lab.stop(&id, 0).await.unwrap();
    until_seen(&lab, "poststop").await;
    lab.remove(&id).await.unwrap();
    let last = read(&lab);
    let last: Vec<&str> = last.lines().skip(4).collect();
    assert_eq!(last, [format!("poststop stopped {id} {own} 0")]);
    lab.remove_pod(&pod).await;
}

#[tokio::test]
async fn a_hook_that_fails_undoes_the_start() {
    let lab = lab!();
    let poststop = hook("poststop", &format!("echo stopped >> {}", seen(&lab).display()));
    let inside = |line: &str, timeout: i64| json!({ "hookName": "startContainer", "path": "/bin/sh", "args": ["sh", "-c", line], "timeout": timeout });
    let mut hangs = hook("createRuntime", "sleep 1000 & echo waits >&2; wait");
    hangs["timeout"] = json!(1);
    let cases = [
        (hook("prestart", "echo no card >&2; exit 3"), "hooks.prestart: /bin/sh: exit code 3: no card"),
        (hook("createContainer", "kill -9 $$"), "hooks.createContainer: /bin/sh: killed by signal 9"),
        (
            json!({ "hookName": "createContainer", "path": "/no/such" }),
            "hooks.createContainer: /no/such: exec: No such file",
        ),
        (hangs, "hooks.createRuntime: /bin/sh: no end within 1s: it was killed: waits"),
        (inside("echo not here; exit 4", 5), "hooks.startContainer: /bin/sh: exit code 4: not here"),
        (
            inside("echo waits; sleep 1000", 1),
            "hooks.startContainer: /bin/sh: no end within 1s: it was killed: waits",
        ),
        (json!({ "hookName": "startContainer", "path": "/no/such" }), "/no/such: exit code 127"),
    ];
    let pod = lab.pod("fails").await;
    for (number, (failing, why)) in cases.into_iter().enumerate() {
        write_spec(&lab, &[failing, poststop.clone()]);
        let mut config = with_device("echo ran");
        config.metadata.as_mut().unwrap().attempt = u32::try_from(number).unwrap();
        let id = lab.create(&pod, config).await.unwrap();
        let error = lab.start(&id).await.unwrap_err();
        assert!(error.message().contains(why), "{error}");
        let status = lab.status(&id).await.unwrap();
        assert_eq!((status.reason.as_str(), status.exit_code), ("StartError", 128), "{status:?}");
        assert!(status.message.contains(why), "{}", status.message);
        until_seen(&lab, &"stopped\n".repeat(number + 1)).await;
        lab.remove(&id).await.unwrap();
    }
    assert_eq!((lab.log("app"), read(&lab)), (String::new(), "stopped\n".repeat(7)));
    lab.remove_pod(&pod).await;
}

/// It may trace all processes of the container, and read what they have.
#[tokio::test]
async fn a_hook_of_the_image_finds_nothing_of_the_runtime_in_the_process_that_waits_for_it() {
    let lab = lab!();
    let line = "ls -l /proc/1/fd > /tmp/files && grep -E '^(CapEff|Seccomp):' /proc/1/status > /tmp/rights";
    let inside =
        json!({ "hookName": "startContainer", "path": "/bin/sh", "args": ["sh", "-c", line], "env": [PATH] });
    write_spec(&lab, &[hook("createContainer", "true"), inside.clone(), inside]);
    let pod = lab.pod("traced").await;
    let mut config = with_device("sleep 1000");
    security(&mut config).capabilities =
        Some(proto::Capability { add_capabilities: vec!["SYS_PTRACE".into()], ..Default::default() });
    security(&mut config).seccomp = Some(proto::SecurityProfile::default());
    // The default profile does not even let it look there.
    let unconfined = proto::security_profile::ProfileType::Unconfined.into();
    security(&mut config).apparmor =
        Some(proto::SecurityProfile { profile_type: unconfined, ..Default::default() });
    let id = lab.run(&pod, config).await;
    let files = lab.sh(&id, "cat /tmp/files").await;
    let files: Vec<&str> = files.lines().filter_map(|line| line.split(" -> ").nth(1)).collect();
    assert!(files.len() >= 4, "{files:?}");
    // Its streams, its hooks, and the socket by which it reports a failure.
    let own = ["/null", "/dev/null", "pipe:", "socket:", "anon_inode:[pidfd]"];
    assert!(files.iter().all(|file| own.iter().any(|own| file.starts_with(own))), "{files:?}");
    assert!(files.iter().filter(|file| file.starts_with("socket:")).count() == 1, "{files:?}");
    let rights = lab.sh(&id, "cat /tmp/rights").await;
    let rights: Vec<&str> = rights.split_whitespace().collect();
    let effective = u64::from_str_radix(rights[1], 16).unwrap();
    assert_eq!((effective >> 19 & 1, effective >> 21 & 1, rights[3]), (1, 0, "2"), "{rights:?}");
    lab.remove_pod(&pod).await;
}

#[tokio::test]
async fn no_hook_of_a_start_runs_after_the_end_or_outside_the_container() {
    let lab = lab!();
    let line = |kind: &str| {
        hook(kind, &format!("echo {kind} $(cat /proc/self/cgroup | tail -n 1) >> {}", seen(&lab).display()))
    };
    write_spec(&lab, &[line("poststart"), line("poststop")]);
    let pod = lab.pod("short").await;
    for attempt in 0..5 {
        let _ = std::fs::remove_file(seen(&lab));
        let mut config = with_device("true");
        config.metadata.as_mut().unwrap().attempt = attempt;
        let id = lab.run(&pod, config).await;
        lab.exited(&id).await;
        lab.remove(&id).await.unwrap();
        let log = read(&lab);
        let kinds: Vec<&str> = log.lines().filter_map(|line| line.split(' ').next()).collect();
        assert!(matches!(kinds[..], ["poststop"] | ["poststart", "poststop"]), "{log}");
        let started = log.lines().find(|line| line.starts_with("poststart"));
        assert!(started.is_none_or(|line| line.contains(&id)), "{log}");
    }
    lab.remove_pod(&pod).await;
}

#[tokio::test]
async fn a_stop_ends_a_hook() {
    let lab = lab!();
    let line = format!("echo $$ >> {}; exec sleep 1000", seen(&lab).display());
    write_spec(&lab, &[hook("createContainer", &line)]);
    let pod = lab.pod("stop").await;
    let id = lab.create(&pod, with_device("echo ran")).await.unwrap();
    let begun = Instant::now();
    let (started, ()) = tokio::join!(lab.start(&id), async {
        until_seen(&lab, "\n").await;
        lab.stop(&id, 0).await.unwrap();
    });
    assert!(started.unwrap_err().message().contains("stopped while it started"));
    // Less than the time limit of the hook.
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    assert!(!std::path::Path::new("/proc").join(read(&lab).trim()).exists());
    lab.remove_pod(&pod).await;
}

#[test]
fn poststop_hooks_run_once_also_over_a_restart() {
    over_a_restart(
        async |lab| {
            // A server that is killed now leaves the note for the next one.
            let due = "[ ! -e $bundle/poststop-due ] || due=due";
            let line = format!("{due}; echo $(of status) $due >> {}", seen(lab).display());
            write_spec(lab, &[hook("poststop", &line)]);
            let pod = lab.pod("poststop").await;
            let stays = lab.run(&pod, with_device("sleep 1000")).await;
            let mut config = with_device("sleep 0.3");
            config.metadata.as_mut().unwrap().name = "ends".into();
            let ends = lab.run(&pod, config).await;
            lab.recorded_as_running(&stays).await;
            lab.recorded_as_running(&ends).await;
            (pod, stays, ends)
        },
        async |lab, (pod, stays, ends)| {
            lab.exited(&ends).await;
            until_seen(lab, "stopped due\n").await;
            lab.remove(&ends).await.unwrap();
            assert_eq!(read(lab), "stopped due\n");
            lab.remove(&stays).await.unwrap();
            assert_eq!(read(lab), "stopped due\nstopped due\n");
            lab.remove_pod(&pod).await;
        },
    );
}

#[test]
fn a_start_that_a_server_leaves_in_its_hooks_can_be_repeated() {
    over_a_restart(
        async |lab| {
            let line = format!("echo $$ >> {0}; [ -e {0}.go ] || exec sleep 1000", seen(lab).display());
            let stopped = format!("echo stopped >> {}", seen(lab).display());
            write_spec(lab, &[hook("createContainer", &line), hook("poststop", &stopped)]);
            let pod = lab.pod("left").await;
            let id = lab.create(&pod, with_device("sleep 1000")).await.unwrap();
            tokio::select! {
                started = lab.start(&id) => panic!("{started:?}"),
                () = until_seen(lab, "\n") => {}
            }
            (pod, id)
        },
        async |lab, (pod, id)| {
            let first = read(lab);
            assert!(!std::path::Path::new("/proc").join(first.trim()).exists());
            std::fs::write(lab.dir.path().join("seen.go"), "").unwrap();
            lab.start(&id).await.unwrap();
            assert_eq!(lab.sh(&id, "echo runs").await, "runs\n");
            // Of the start that was left, before those of the next one.
            let log = read(lab);
            let stopped: Vec<bool> = log.lines().map(|line| line == "stopped").collect();
            assert_eq!(stopped, [false, true, false], "{log}");
            lab.remove(&id).await.unwrap();
            assert!(read(lab).ends_with("\nstopped\n") && read(lab).lines().count() == 4, "{}", read(lab));
            lab.remove_pod(&pod).await;
        },
    );
}
