//! `crisp oci`: refused requests, and the state after killed commands.

use std::time::Instant;

use crisp_e2e::bundle::{Bundle, spec};
use crisp_e2e::{Result, needs};
use serde_json::{Value, json};

#[test]
fn bad_ids_are_refused() -> Result<()> {
    needs!("busybox");
    let bundle = Bundle::new(&["true"])?;
    let long = "x".repeat(1025);
    for id in ["../x", "", ".", "..", "a/b", "a b", &long] {
        for command in ["create", "start", "state", "kill", "delete", "run"] {
            let error = bundle.refused(&[command, id])?;
            assert!(error.contains("container id"), "{command} {id:?}: {error}");
        }
    }
    assert!(!bundle.root().exists());
    Ok(())
}

#[test]
fn bad_bundles_are_refused_by_name_and_leave_nothing() -> Result<()> {
    needs!("busybox");
    let bundle = Bundle::new(&["true"])?;
    let error = bundle.refused(&["create", "--bundle", "/no/such/bundle", "b"])?;
    assert!(error.contains("/no/such/bundle"), "{error}");
    let write = |text: &str| std::fs::write(bundle.path().join("config.json"), text);
    for (text, word) in [("{", "config.json"), ("[]", "config.json"), ("{}", "ociVersion")] {
        write(text)?;
        let error = bundle.refused(&["create", "b"])?;
        assert!(error.contains(word), "{text}: {error}");
    }
    std::fs::remove_file(bundle.path().join("config.json"))?;
    assert!(bundle.refused(&["create", "b"])?.contains("config.json"));
    let usual = spec(&["true"]);
    let cases: [(&str, Value, &str); 17] = [
        ("/ociVersion", json!("2.0.0"), "ociVersion"),
        ("/root/path", json!("no-such"), "root.path"),
        ("/process/args", json!([]), "process.args"),
        ("/process/terminal", json!(true), "--console-socket"),
        ("/process/selinuxLabel", json!("system_u:object_r:x_t:s0"), "process.selinuxLabel"),
        ("/hooks", json!({ "createContainer": [{ "path": "true" }] }), "hooks.createContainer[0].path"),
        ("/hooks", json!({ "prestart": [{ "path": "/bin/false" }] }), "hooks.prestart: /bin/false"),
        ("/linux/cgroupsPath", json!("/../x"), "linux.cgroupsPath"),
        ("/linux/cgroupsPath", json!("system.slice:crisp:x"), "systemd"),
        ("/linux/sysctl", json!({ "kernel.panic": "1" }), "kernel.panic"),
        ("/linux/resources/memory", json!({ "kernel": 4096 }), "memory.kernel"),
        ("/linux/resources/memory", json!({ "useHierarchy": false }), "memory.useHierarchy"),
        ("/linux/personality", json!({ "domain": "LINUX32" }), "linux.personality"),
        ("/linux/timeOffsets", json!({ "monotonic": { "secs": 1, "nanosecs": 0 } }), "linux.timeOffsets"),
        ("/linux/namespaces/1/path", json!("/no/such/net"), "linux.namespaces[1].path"),
        ("/linux/namespaces/4", json!({ "type": "mount", "path": "/proc/1/ns/mnt" }), "linux.namespaces[4]"),
        ("/mounts/0/options", json!(["sync"]), "mounts[0].options"),
    ];
    for (pointer, value, word) in cases {
        bundle.change(&usual, |spec| set(spec, pointer, value.clone()))?;
        let error = bundle.refused(&["create", "b"])?;
        assert!(error.contains(word), "{pointer} {value}: {error}");
        assert_eq!(std::fs::read_dir(bundle.root()).map_or(0, Iterator::count), 0, "{pointer}");
    }
    Ok(())
}

fn set(spec: &mut Value, pointer: &str, value: Value) {
    let (parent, name) = pointer.rsplit_once('/').expect("a pointer");
    let parent = spec.pointer_mut(parent).expect("a field");
    match name.parse::<usize>() {
        Ok(index) => parent[index] = value,
        Err(_) => parent[name] = value,
    }
}

#[test]
fn options_that_nothing_does_are_refused_by_name() -> Result<()> {
    needs!("busybox");
    let bundle = Bundle::new(&["true"])?;
    for (args, word) in [
        (&["--systemd-cgroup", "create", "b"][..], "--systemd-cgroup"),
        (&["--rootless", "true", "create", "b"], "--rootless"),
        (&["create", "--no-pivot", "b"], "--no-pivot"),
        (&["create", "--no-new-keyring", "b"], "--no-new-keyring"),
        (&["create", "--console-socket", "/x", "b"], "--console-socket"),
        (&["kill", "b", "FOO"], "FOO"),
    ] {
        let error = bundle.refused(args)?;
        assert!(error.contains(word), "{args:?}: {error}");
    }
    Ok(())
}

#[test]
fn operations_in_the_wrong_order_are_refused() -> Result<()> {
    needs!("busybox");
    let bundle = Bundle::new(&["sleep", "1000"])?;
    for command in ["start", "state", "kill", "delete", "pause", "resume", "ps"] {
        let error = bundle.refused(&[command, "none"])?;
        assert!(error.contains("container none does not exist"), "{command}: {error}");
    }
    bundle.good(&["delete", "--force", "none"])?;
    bundle.good(&["create", "@one"])?;
    assert!(bundle.refused(&["create", "@one"])?.contains("exists already"));
    assert_eq!(bundle.state("@one")?["status"], "created");
    assert!(bundle.refused(&["resume", "@one"])?.contains("created"));
    bundle.good(&["start", "@one"])?;
    assert!(bundle.refused(&["start", "@one"])?.contains("running already"));
    assert!(bundle.refused(&["delete", "@one"])?.contains("running"));
    bundle.good(&["pause", "@one"])?;
    assert_eq!(bundle.state("@one")?["status"], "paused");
    assert!(bundle.refused(&["exec", "@one", "true"])?.contains("paused"));
    assert!(bundle.refused(&["pause", "@one"])?.contains("paused"));
    bundle.good(&["resume", "@one"])?;
    assert_eq!(bundle.state("@one")?["status"], "running");
    bundle.good(&["kill", "@one", "9"])?;
    bundle.wait("@one", "stopped")?;
    assert!(bundle.refused(&["kill", "@one", "9"])?.contains("container not running"));
    assert!(bundle.refused(&["start", "@one"])?.contains("stopped"));
    assert!(bundle.refused(&["exec", "@one", "true"])?.contains("container not running"));
    bundle.good(&["delete", "@one"])?;
    Ok(())
}

/// Other processes in the cgroup would be killed with the container.
#[test]
fn a_cgroup_in_use_is_refused() -> Result<()> {
    needs!("busybox");
    let bundle = Bundle::new(&["sleep", "1000"])?;
    bundle.good(&["run", "-d", "@first"])?;
    let cgroup = format!("/crisp-oci-{}", bundle.id("first"));
    bundle.change(&spec(&["true"]), |spec| spec["linux"]["cgroupsPath"] = json!(cgroup.clone()))?;
    let error = bundle.refused(&["create", "@second"])?;
    assert!(error.contains("linux.cgroupsPath") && error.contains(&cgroup), "{error}");
    assert_eq!(bundle.state("@first")?["status"], "running");
    Ok(())
}

/// A container that has stopped and was kept does not own the path of its cgroup any more.
#[test]
fn a_deletion_spares_the_container_that_has_its_cgroup_now() -> Result<()> {
    needs!("busybox");
    let (old, new) = (Bundle::new(&["true"])?, Bundle::new(&["sleep", "1000"])?);
    let cgroup = json!(format!("/crisp-oci-{}", old.id("old")));
    new.change(&spec(&["sleep", "1000"]), |spec| spec["linux"]["cgroupsPath"] = cgroup)?;
    old.good(&["run", "--keep", "@old"])?;
    assert_eq!(old.state("@old")?["status"], "stopped");
    new.good(&["run", "-d", "@new"])?;
    assert!(old.refused(&["kill", "@old", "KILL"])?.contains("container not running"));
    // Callers make sure by it that no process of a container is left.
    old.good(&["kill", "--all", "@old", "KILL"])?;
    let error = old.refused(&["delete", "@old"])?;
    assert!(error.contains("is not of container"), "{error}");
    assert_eq!(new.state("@new")?["status"], "running");
    new.good(&["delete", "--force", "@new"])?;
    old.good(&["delete", "@old"])?;
    Ok(())
}

/// They would be set on the host.
#[test]
fn names_and_settings_of_the_host_are_refused_also_by_a_path() -> Result<()> {
    needs!("busybox");
    let bundle = Bundle::new(&["true"])?;
    let own = |name: &str| json!(format!("/proc/{}/ns/{name}", std::process::id()));
    // The value is the present one, so that a failure of this test changes nothing.
    let now =
        |name: &str| std::fs::read_to_string(format!("/proc/sys/{name}")).map(|text| text.trim().to_owned());
    let cases: [(usize, &str, &str, Value, &str); 3] = [
        (
            1,
            "net",
            "/linux/sysctl",
            json!({ "net.ipv4.ip_forward": now("net/ipv4/ip_forward")? }),
            "net.ipv4.ip_forward",
        ),
        (2, "ipc", "/linux/sysctl", json!({ "kernel.shmmni": now("kernel/shmmni")? }), "kernel.shmmni"),
        (3, "uts", "/hostname", json!(now("kernel/hostname")?), "hostname"),
    ];
    for (index, name, pointer, value, word) in cases {
        bundle.change(&spec(&["true"]), |spec| {
            if name != "uts" {
                spec["hostname"] = json!("");
            }
            spec["linux"]["namespaces"][index]["path"] = own(name);
            set(spec, pointer, value);
        })?;
        let error = bundle.refused(&["create", "@host"])?;
        assert!(error.contains(word) && error.contains("for the host"), "{name}: {error}");
    }
    // Without settings, the path is treated like a namespace that is not listed.
    bundle.change(&spec(&["true"]), |spec| spec["linux"]["namespaces"][1]["path"] = own("net"))?;
    bundle.good(&["run", "@joined"])?;
    // Opening a FIFO would never return.
    let fifo = bundle.path().join("fifo");
    assert!(std::process::Command::new("mkfifo").arg(&fifo).status()?.success());
    bundle.change(&spec(&["true"]), |spec| spec["linux"]["namespaces"][1]["path"] = json!(fifo))?;
    bundle.refused(&["create", "@fifo"])?;
    Ok(())
}

/// The command is killed at each moment, and after its end.
#[test]
fn what_a_killed_create_leaves_is_removed_by_force() -> Result<()> {
    needs!("busybox");
    let bundle = Bundle::new(&["sleep", "1000"])?;
    let started = Instant::now();
    bundle.good(&["create", "@whole"])?;
    let whole = started.elapsed();
    bundle.good(&["delete", "--force", "@whole"])?;
    let (mut left, mut created) = (0, 0);
    for moment in 0..24 {
        let id = bundle.id(&format!("killed-{moment}"));
        let mut create = bundle.command(&["create", &id]).stderr(std::process::Stdio::null()).spawn()?;
        std::thread::sleep(whole * moment / 16);
        create.kill()?;
        created += usize::from(create.wait()?.success());
        left += usize::from(bundle.root().join(&id).exists());
        bundle.good(&["delete", "--force", &id])?;
        assert!(!bundle.root().join(&id).exists());
        let find = std::process::Command::new("find")
            .args(["/sys/fs/cgroup", "-type", "d", "-name", &format!("crisp-oci-{id}")])
            .output()?;
        assert_eq!(String::from_utf8_lossy(&find.stdout), "", "after {moment}");
    }
    assert!(left > created, "no create of {whole:?} was killed in its course: {left} left, {created} whole");
    assert!(created > 0, "no create of {whole:?} came to its end");
    bundle.good(&["run", "-d", "@after"])?;
    Ok(())
}

#[test]
fn one_of_many_creates_gets_the_id() -> Result<()> {
    needs!("busybox");
    let bundle = Bundle::new(&["sleep", "1000"])?;
    let spawn = |_| bundle.command(&["create", "@same"]).stderr(std::process::Stdio::null()).spawn();
    let mut all = (0..8).map(spawn).collect::<std::io::Result<Vec<_>>>()?;
    let mut good = 0;
    for child in &mut all {
        good += usize::from(child.wait()?.success());
    }
    assert_eq!(good, 1);
    assert_eq!(bundle.state("@same")?["status"], "created");
    let spawn = |_| bundle.command(&["start", "@same"]).stderr(std::process::Stdio::null()).spawn();
    let mut all = (0..8).map(spawn).collect::<std::io::Result<Vec<_>>>()?;
    let mut good = 0;
    for child in &mut all {
        good += usize::from(child.wait()?.success());
    }
    assert_eq!(good, 1);
    Ok(())
}
