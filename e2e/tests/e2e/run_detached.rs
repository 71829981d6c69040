//! Pods that a server supervises: `crisp up`, `crisp down`, and events between them.

use std::time::{Duration, Instant};

use crisp_e2e::standalone::manifest;
use crisp_e2e::{Image, Machine, Result, Setup, leak, needs, request};
use k8s_cri::v1::{PodSandboxState, PodSandboxStatusRequest, RemovePodSandboxRequest};
use rustix::process::{Pid, Signal, kill_process};

pub async fn machine() -> Result<(Machine, String)> {
    let machine = Machine::start_with(Setup::default()).await?;
    let image = machine.registry().push("busybox", "1", &Image::busybox().build())?;
    Ok((machine, image))
}

/// Writes a manifest; returns its path.
pub fn write(machine: &Machine, name: &str, text: &str) -> Result<String> {
    let path = machine.folder().join(name);
    std::fs::write(&path, text)?;
    Ok(path.display().to_string())
}

/// Runs a command; returns its output on both streams, and whether it succeeded.
pub fn crisp(machine: &Machine, args: &[&str]) -> Result<(String, bool)> {
    let output = machine.crisp(args)?;
    let text = [output.stdout, output.stderr].concat();
    Ok((String::from_utf8_lossy(&text).into_owned(), output.status.success()))
}

pub async fn until(machine: &Machine, what: &str, mut is_so: impl FnMut() -> Result<bool>) -> Result<()> {
    let begun = Instant::now();
    while !is_so()? {
        if begun.elapsed() > Duration::from_secs(60) {
            let (list, _) = crisp(machine, &["up"])?;
            return Err(format!("{what}:\n{list}\n{}", machine.log()).into());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_supervised_pod_outlives_the_client_and_the_server() -> Result<()> {
    needs!("docker-registry", "busybox");
    let (mut machine, image) = machine().await?;
    let out = machine.folder().join("out");
    std::fs::create_dir(&out)?;
    let spec = format!(
        "  terminationGracePeriodSeconds: 2\n  volumes: [{{name: out, hostPath: {{path: '{}'}}}}]\n",
        out.display()
    );
    let stays = "echo x >> /out/stays; trap 'echo bye > /out/bye; exit 0' TERM; while :; do sleep 0.1; done";
    let fails = "echo x >> /out/fails; [ -e /out/go ] || exit 1; while :; do sleep 0.1; done";
    let mut yaml = manifest(&image, &spec, &[("stays", stays), ("fails", fails)]);
    for name in ["stays", "fails"] {
        let mounted = format!("name: {name}, volumeMounts: [{{name: out, mountPath: /out}}],");
        yaml = yaml.replace(&format!("name: {name},"), &mounted);
    }
    let file = write(&machine, "pod.yaml", &yaml)?;
    let (text, is_good) = crisp(&machine, &["up", &file])?;
    assert!(is_good && text.contains("alone: is up"), "{text}");
    let count = |name: &str| std::fs::read_to_string(out.join(name)).map_or(0, |text| text.lines().count());
    until(&machine, "is not started again", || Ok(count("fails") == 2)).await?;

    let (text, is_good) = crisp(&machine, &["up", &file])?;
    assert!(is_good && text.contains("is there already, unchanged"), "{text}");
    let other = write(
        &machine,
        "other.yaml",
        &yaml.replace("terminationGracePeriodSeconds: 2", "terminationGracePeriodSeconds: 1"),
    )?;
    let (text, is_good) = crisp(&machine, &["up", &other])?;
    assert!(!is_good && text.contains("--replace takes it down first"), "{text}");

    // The server is killed without preparation.
    machine.kill_server();
    machine.start_server().await?;
    let (list, _) = crisp(&machine, &["up"])?;
    assert!(list.contains("default     alone   Running"), "{list}");
    assert_eq!(count("stays"), 1, "what runs is not started twice");
    std::fs::write(out.join("go"), "")?;
    // The second pause before a restart takes 10 seconds.
    until(&machine, "is not started by the next server", || {
        Ok(count("fails") >= 3 && crisp(&machine, &["up"])?.0.contains("2/2"))
    })
    .await?;
    assert!(count("stays") == 1 && !out.join("bye").exists());

    let (text, is_good) = crisp(&machine, &["down", &file])?;
    assert!(is_good && text.contains("alone: is down") && out.join("bye").exists(), "{text}");
    let (list, _) = crisp(&machine, &["up"])?;
    assert!(!list.contains("alone"), "{list}");
    let (text, is_good) = crisp(&machine, &["down", "alone"])?;
    assert!(!is_good && text.contains("no standalone pod is called alone"), "{text}");
    assert_eq!(std::fs::read_dir(machine.root().join("standalone/pods"))?.count(), 0);
    machine.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_ended_stays_to_be_looked_at_and_is_not_run_again() -> Result<()> {
    needs!("docker-registry", "busybox");
    let (mut machine, image) = machine().await?;
    let spec = "  restartPolicy: Never\n";
    let file = write(&machine, "pod.yaml", &manifest(&image, spec, &[("a", "echo seen; exit 4")]))?;
    let (text, is_good) = crisp(&machine, &["run", "-d", &file])?;
    assert!(!is_good || text.contains("is up"), "{text}");
    let failed = |machine: &Machine| Ok(crisp(machine, &["up"])?.0.contains("Failed (4)"));
    until(&machine, "has not ended", || failed(&machine)).await?;
    machine.stop_server()?;
    machine.start_server().await?;
    assert!(failed(&machine)?);
    let (text, is_good) = crisp(&machine, &["logs", "a"])?;
    assert!(is_good && text == "seen\n", "{text}");
    let (text, is_good) = crisp(&machine, &["run", "-d", "--replace", &file])?;
    assert!(text.contains("alone: is down"), "{text} {is_good}");
    until(&machine, "has not ended", || failed(&machine)).await?;
    let (text, is_good) = crisp(&machine, &["down", "default/alone"])?;
    assert!(is_good, "{text}");
    machine.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_server_the_command_that_starts_one_is_named() -> Result<()> {
    needs!("docker-registry", "busybox");
    let (mut machine, image) = machine().await?;
    let file = write(&machine, "pod.yaml", &manifest(&image, "", &[("a", "true")]))?;
    machine.stop_server()?;
    let (text, is_good) = crisp(&machine, &["run", "-d", &file])?;
    assert!(!is_good && text.contains("start one with `crisp serve --network built-in`"), "{text}");
    let (text, is_good) = crisp(&machine, &["up", "--dry-run", &file])?;
    assert!(is_good && text == "default/alone: a\n", "{text}");
    machine.start_server().await?;
    machine.close().await
}

/// The state after a power cut, except for the boot id.
#[tokio::test(flavor = "multi_thread")]
async fn when_all_processes_are_lost_pods_run_again_by_their_policy() -> Result<()> {
    needs!("docker-registry", "busybox");
    let (mut machine, image) = machine().await?;
    let out = machine.folder().join("out");
    std::fs::create_dir(&out)?;
    let volumes = format!(
        "  volumes: [{{name: out, hostPath: {{path: '{}'}}}}, {{name: work, emptyDir: {{}}}}]\n",
        out.display()
    );
    let pod = |name: &str, policy: &str| {
        let line = format!(
            "echo x >> /out/{name}; touch /work/$(ls /work | wc -l); ls /work > /out/work.{name}; exec sleep 1000"
        );
        let spec = format!("  restartPolicy: {policy}\n  terminationGracePeriodSeconds: 1\n{volumes}");
        let mounts = "name: a, volumeMounts: [{name: out, mountPath: /out}, {name: work, mountPath: /work}],";
        manifest(&image, &spec, &[("a", &line)]).replace("name: a,", mounts).replace("alone", name)
    };
    let file =
        write(&machine, "pods.yaml", &format!("{}---\n{}", pod("always", "Always"), pod("never", "Never")))?;
    let (text, is_good) = crisp(&machine, &["up", &file])?;
    assert!(is_good && text.contains("always: is up") && text.contains("never: is up"), "{text}");
    let work = |name: &str| std::fs::read_to_string(out.join(format!("work.{name}"))).unwrap_or_default();
    until(&machine, "does not work", || Ok(work("always") == "0\n" && work("never") == "0\n")).await?;
    machine.kill_server();
    let monitors = machine.monitors("");
    assert_eq!(monitors.len(), 2);
    for pid in monitors.into_iter().flat_map(leak::tree).filter_map(Pid::from_raw) {
        let _ = kill_process(pid, Signal::KILL);
    }
    machine.start_server().await?;
    let count = |name: &str| std::fs::read_to_string(out.join(name)).map_or(0, |text| text.lines().count());
    until(&machine, "is not run again", || Ok(count("always") == 2)).await?;
    until(&machine, "has not ended", || Ok(crisp(&machine, &["up"])?.0.contains("Failed (255)"))).await?;
    assert_eq!(count("never"), 1);
    until(&machine, "does not keep its emptyDir", || Ok(work("always") == "0\n1\n")).await?;
    let (text, is_good) = crisp(&machine, &["down", "always", "never"])?;
    assert!(is_good, "{text}");
    machine.close().await
}

/// The monitor is slow, as on an overloaded node; that does not mean that it has ended.
#[tokio::test(flavor = "multi_thread")]
async fn a_pod_whose_monitor_is_silent_at_a_restart_keeps_its_life_and_its_volumes() -> Result<()> {
    needs!("docker-registry", "busybox");
    let (mut machine, image) = machine().await?;
    let secret = "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\nstringData: {key: hunter2}\n---\n";
    let spec = "  terminationGracePeriodSeconds: 1\n  volumes: [{name: s, secret: {secretName: s}}]\n";
    let line = "echo started; exec sleep 1000";
    let pod = manifest(&image, spec, &[("a", line)])
        .replace("name: a,", "name: a, volumeMounts: [{name: s, mountPath: /s}],");
    let file = write(&machine, "pod.yaml", &format!("{secret}{pod}"))?;
    let (text, is_good) = crisp(&machine, &["up", &file])?;
    assert!(is_good && !text.contains("hunter2"), "{text}");
    let monitor = Pid::from_raw(machine.monitors("")[0]).ok_or("no pid")?;
    kill_process(monitor, Signal::STOP)?;
    machine.kill_server();
    machine.start_server().await?;
    until(&machine, "does not wait for the monitor", || Ok(crisp(&machine, &["up"])?.0.contains("Waiting")))
        .await?;
    kill_process(monitor, Signal::CONT)?;
    until(&machine, "does not run", || Ok(crisp(&machine, &["up"])?.0.contains("Running"))).await?;
    let (text, is_good) = crisp(&machine, &["exec", "a", "cat", "/s/key"])?;
    assert!(is_good && text == "hunter2", "{text}");
    let (text, _) = crisp(&machine, &["logs", "a"])?;
    assert_eq!(text, "started\n", "what runs is not started twice");
    let (text, is_good) = crisp(&machine, &["down", &file])?;
    assert!(is_good, "{text}");
    machine.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_is_taken_down_twice_has_its_grace_period_all_the_same() -> Result<()> {
    needs!("docker-registry", "busybox");
    let (machine, image) = machine().await?;
    let out = machine.folder().join("out");
    std::fs::create_dir(&out)?;
    let spec = format!("  volumes: [{{name: out, hostPath: {{path: '{}'}}}}]\n", out.display());
    let line = "trap 'sleep 2; echo bye > /out/bye; exit 0' TERM; while :; do sleep 0.1; done";
    let pod = manifest(&image, &spec, &[("a", line)])
        .replace("name: a,", "name: a, volumeMounts: [{name: out, mountPath: /out}],");
    let file = write(&machine, "pod.yaml", &pod)?;
    let (text, is_good) = crisp(&machine, &["up", &file])?;
    assert!(is_good, "{text}");
    std::thread::scope(|scope| {
        let first = scope.spawn(|| crisp(&machine, &["down", "alone", "default/alone"]));
        std::thread::sleep(Duration::from_millis(700));
        let _ = crisp(&machine, &["down", "alone"]);
        first.join().map_err(|_| "the first has panicked")?
    })?;
    assert_eq!(std::fs::read_to_string(out.join("bye"))?, "bye\n");
    machine.close().await
}

/// The manifest of a pod that was exported from a cluster to the node on which it runs.
#[tokio::test(flavor = "multi_thread")]
async fn a_pod_of_another_client_is_left_alone_whatever_its_uid() -> Result<()> {
    needs!("docker-registry", "busybox");
    let (machine, image) = machine().await?;
    let mut client = machine.client().await?;
    let mut config = request::pod(&machine, "alone");
    config.metadata.get_or_insert_default().uid = "u-1".to_owned();
    let id = client.run_pod(&config).await?;
    let pod = manifest(&image, "", &[("a", "sleep 1000")]).replace("name: alone", "name: alone, uid: u-1");
    let file = write(&machine, "pod.yaml", &pod)?;
    let (text, is_good) = crisp(&machine, &["up", &file])?;
    assert!(!is_good && text.contains("of another client has this uid and name"), "{text}");
    let (text, is_good) = crisp(&machine, &["down", "alone"])?;
    assert!(is_good, "{text}");
    let status = PodSandboxStatusRequest { pod_sandbox_id: id.clone(), verbose: false };
    let status = client.runtime.pod_sandbox_status(status).await?.into_inner().status.unwrap_or_default();
    assert_eq!(status.state(), PodSandboxState::SandboxReady);
    client.runtime.remove_pod_sandbox(RemovePodSandboxRequest { pod_sandbox_id: id }).await?;
    machine.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_volume_of_a_pod_that_waits_for_its_image_is_not_pruned() -> Result<()> {
    needs!("docker-registry", "busybox");
    let (machine, image) = machine().await?;
    let volumes = machine.root().join("standalone/volumes");
    for name in ["data", "spare"] {
        let (text, is_good) = crisp(&machine, &["volume", "create", name])?;
        assert!(is_good, "{text}");
    }
    std::fs::write(volumes.join("data/file"), "kept")?;
    let spec = "  volumes: [{name: v, persistentVolumeClaim: {claimName: data}}]\n";
    let mut yaml = manifest(&format!("{image}-none"), spec, &[("db", "sleep 1000")]);
    yaml = yaml.replace("name: db,", "name: db, volumeMounts: [{name: v, mountPath: /d}],");
    let file = write(&machine, "pod.yaml", &yaml)?;
    let (text, _) = crisp(&machine, &["up", &file])?;
    let (list, _) = crisp(&machine, &["up"])?;
    assert!(list.contains("alone"), "{text}{list}");
    let (text, is_good) = crisp(&machine, &["volume", "rm", "data"])?;
    assert!(!is_good && text.contains("in use by pod default/alone"), "{text}");
    let (text, is_good) = crisp(&machine, &["volume", "prune", "-f"])?;
    assert!(is_good && text == "spare\n", "{text}");
    assert_eq!(std::fs::read_to_string(volumes.join("data/file"))?, "kept");
    let (text, is_good) = crisp(&machine, &["down", "alone"])?;
    assert!(is_good, "{text}");
    let (text, is_good) = crisp(&machine, &["volume", "prune", "-f"])?;
    assert!(is_good && text == "data\n", "{text}");
    machine.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_of_which_a_part_is_mounted_is_in_use() -> Result<()> {
    needs!("docker-registry", "busybox");
    let (machine, image) = machine().await?;
    let folder = machine.root().join("standalone/volumes/data/a");
    assert!(crisp(&machine, &["volume", "create", "data"])?.1);
    std::fs::create_dir(&folder)?;
    std::fs::write(folder.join("file"), "kept")?;
    let spec = "  terminationGracePeriodSeconds: 1\n  volumes: [{name: v, persistentVolumeClaim: {claimName: data}}]\n";
    let mut yaml = manifest(&image, spec, &[("db", "sleep 1000")]);
    yaml = yaml.replace("name: db,", "name: db, volumeMounts: [{name: v, mountPath: /d, subPath: a}],");
    let file = write(&machine, "pod.yaml", &yaml)?;
    let (text, is_good) = crisp(&machine, &["up", &file])?;
    assert!(is_good, "{text}");
    // By the mount: also a pod without a record uses it.
    let (text, is_good) = crisp(&machine, &["volume", "rm", "data"])?;
    assert!(!is_good && text.contains("in use by alone/db:"), "{text}");
    let (text, is_good) = crisp(&machine, &["system", "prune", "-f", "--volumes"])?;
    assert!(is_good && folder.join("file").exists(), "{text}");
    let (text, is_good) = crisp(&machine, &["down", "alone"])?;
    assert!(is_good, "{text}");
    machine.close().await
}
