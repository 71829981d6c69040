//! Supervised pods that lose their sandbox, their server, their disk or their image while they run. They are
//! started again, and nothing runs twice.

use std::path::{Path, PathBuf};

use crisp_e2e::standalone::manifest;
use crisp_e2e::{Image, Machine, Result, Setup, leak, needs, request};
use k8s_cri::v1::{ImageSpec, ListPodSandboxRequest, RemoveImageRequest, StopPodSandboxRequest};
use rustix::process::{Pid, Signal, kill_process};

use crate::run_detached::{crisp, machine, until, write};

/// The manifest of a pod whose containers have the host's folder `out` at /out, and an emptyDir at /work.
fn pod(out: &Path, image: &str, spec: &str, containers: &[(&str, &str)]) -> String {
    let volumes = format!(
        "  volumes: [{{name: out, hostPath: {{path: '{}'}}}}, {{name: work, emptyDir: {{}}}}]\n",
        out.display()
    );
    let mut text = manifest(image, &format!("{spec}{volumes}"), containers);
    for (name, _) in containers {
        let mounts = format!(
            "name: {name}, volumeMounts: [{{name: out, mountPath: /out}}, {{name: work, mountPath: /work}}],"
        );
        text = text.replace(&format!("name: {name},"), &mounts);
    }
    text.replace("name: alone", "name: alone, uid: u-1")
}

fn out(machine: &Machine) -> Result<PathBuf> {
    let out = machine.folder().join("out");
    std::fs::create_dir(&out)?;
    Ok(out)
}

fn lines(out: &Path, name: &str) -> usize {
    std::fs::read_to_string(out.join(name)).map_or(0, |text| text.lines().count())
}

fn is_listed(machine: &Machine, text: &str) -> Result<bool> {
    Ok(crisp(machine, &["up"])?.0.contains(text))
}

/// Kills every process of every pod.
fn kill_pods(machine: &Machine) {
    for pid in machine.monitors("").into_iter().flat_map(leak::tree).filter_map(Pid::from_raw) {
        let _ = kill_process(pid, Signal::KILL);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_whose_sandbox_is_gone_runs_again_and_keeps_its_emptydir() -> Result<()> {
    needs!("docker-registry", "busybox");
    let (machine, image) = machine().await?;
    let out = out(&machine)?;
    let line = "echo x >> /out/begun; echo x >> /work/x; cat /work/x > /out/work; exec sleep 1000";
    let spec = "  terminationGracePeriodSeconds: 1\n";
    let file = write(&machine, "pod.yaml", &pod(&out, &image, spec, &[("a", line)]))?;
    let (text, is_good) = crisp(&machine, &["up", &file])?;
    assert!(is_good, "{text}");
    until(&machine, "does not begin", || Ok(lines(&out, "work") == 1)).await?;
    kill_pods(&machine);
    until(&machine, "is not run again", || Ok(lines(&out, "work") == 2)).await?;
    until(&machine, "does not run", || is_listed(&machine, "Running")).await?;
    // As a user, or a kubelet that does not know the pod, would do.
    let mut client = machine.client().await?;
    let pods = client.runtime.list_pod_sandbox(ListPodSandboxRequest::default()).await?.into_inner().items;
    assert_eq!(pods.len(), 1);
    let pod_sandbox_id = pods[0].id.clone();
    client.runtime.stop_pod_sandbox(StopPodSandboxRequest { pod_sandbox_id }).await?;
    until(&machine, "is not run again", || Ok(lines(&out, "work") == 3)).await?;
    let (text, is_good) = crisp(&machine, &["down", "alone"])?;
    assert!(is_good, "{text}");
    machine.close().await
}

/// The startupProbe never succeeds, so the pod's other containers wait for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_that_is_lost_before_it_has_started_does_not_hang_its_pod() -> Result<()> {
    needs!("docker-registry", "busybox");
    let (machine, image) = machine().await?;
    let out = out(&machine)?;
    let spec = format!(
        "  terminationGracePeriodSeconds: 1\n  initContainers:\n  - {{name: side, image: '{image}', restartPolicy: Always, command: [sh, -c, 'echo x >> /out/side; exec sleep 1000'], volumeMounts: [{{name: out, mountPath: /out}}], startupProbe: {{exec: {{command: ['false']}}, failureThreshold: 1000}}}}\n"
    );
    let file = write(&machine, "pod.yaml", &pod(&out, &image, &spec, &[("a", "sleep 1000")]))?;
    std::thread::scope(|scope| -> Result<()> {
        let up = scope.spawn(|| crisp(&machine, &["up", &file]).map_err(|error| error.to_string()));
        let tested = tokio::task::block_in_place(|| {
            tokio::runtime::Handle::current().block_on(async {
                until(&machine, "does not begin", || Ok(lines(&out, "side") == 1)).await?;
                kill_pods(&machine);
                until(&machine, "is not run again", || Ok(lines(&out, "side") == 2)).await
            })
        });
        let (text, is_good) = crisp(&machine, &["down", "alone"])?;
        assert!(is_good, "{text}");
        up.join().map_err(|_| "the client has panicked")??;
        tested
    })?;
    machine.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_succeeded_is_not_run_again_when_the_rest_of_its_pod_is_lost() -> Result<()> {
    needs!("docker-registry", "busybox");
    let (mut machine, image) = machine().await?;
    let out = out(&machine)?;
    let spec = "  restartPolicy: OnFailure\n  terminationGracePeriodSeconds: 1\n";
    let stays = "echo x >> /out/stays; [ -e /out/go ] && exit 0; exec sleep 1000";
    let file =
        write(&machine, "pod.yaml", &pod(&out, &image, spec, &[("a", "echo x >> /out/ends"), ("b", stays)]))?;
    let (text, is_good) = crisp(&machine, &["up", &file])?;
    assert!(is_good, "a container that has ended well has started: {text}");
    until(&machine, "does not begin", || Ok(lines(&out, "ends") == 1 && lines(&out, "stays") == 1)).await?;
    let status = machine.root().join("standalone/pods/u-1.status");
    let is_noted = || Ok(std::fs::read_to_string(&status).is_ok_and(|text| text.contains("[\"a\"]")));
    until(&machine, "is not noted", is_noted).await?;
    kill_pods(&machine);
    until(&machine, "is not run again", || Ok(lines(&out, "stays") == 2)).await?;
    // The same again with another server.
    machine.kill_server();
    kill_pods(&machine);
    std::fs::write(out.join("go"), "")?;
    machine.start_server().await?;
    until(&machine, "does not end", || is_listed(&machine, "Succeeded")).await?;
    assert_eq!((lines(&out, "ends"), lines(&out, "stays")), (1, 3));
    let (text, is_good) = crisp(&machine, &["down", "alone"])?;
    assert!(is_good, "{text}");
    machine.close().await
}

/// Every stop of a pod sandbox fails until the next server starts.
#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_has_ended_and_cannot_be_stopped_is_not_run_again() -> Result<()> {
    needs!("docker-registry", "busybox");
    let faults = Some("stop_pod/monitor=fail".to_owned());
    let mut machine = Machine::start_with(Setup { faults, ..Default::default() }).await?;
    let image = machine.registry().push("busybox", "1", &Image::busybox().build())?;
    let out = out(&machine)?;
    let spec = "  restartPolicy: Never\n";
    let file = write(&machine, "pod.yaml", &pod(&out, &image, spec, &[("a", "echo x >> /out/a")]))?;
    crisp(&machine, &["up", &file])?;
    until(&machine, "does not end", || is_listed(&machine, "Succeeded")).await?;
    machine.kill_server();
    machine.start_server_without_faults().await?;
    assert!(is_listed(&machine, "Succeeded")?);
    let (text, is_good) = crisp(&machine, &["down", "alone"])?;
    assert!(is_good && lines(&out, "a") == 1, "{text}");
    machine.close().await
}

/// The disk is full when the pod ends, and the server dies.
#[tokio::test(flavor = "multi_thread")]
async fn a_pod_whose_end_cannot_be_recorded_is_not_run_again() -> Result<()> {
    needs!("docker-registry", "busybox");
    let (mut machine, image) = machine().await?;
    let out = out(&machine)?;
    let line = "echo x >> /out/a; while [ ! -e /out/go ]; do sleep 0.1; done; exit 3";
    let spec = "  restartPolicy: Never\n";
    let file = write(&machine, "pod.yaml", &pod(&out, &image, spec, &[("a", line)]))?;
    let (text, is_good) = crisp(&machine, &["up", &file])?;
    assert!(is_good, "{text}");
    // A folder in the place of the temporary file for the status.
    let beside = machine.root().join("standalone/pods/u-1.status.new");
    std::fs::create_dir(&beside)?;
    std::fs::write(out.join("go"), "")?;
    until(&machine, "does not wait for its disk", || is_listed(&machine, "Waiting")).await?;
    machine.kill_server();
    machine.start_server().await?;
    std::fs::remove_dir(&beside)?;
    until(&machine, "has not ended", || is_listed(&machine, "Failed (3)")).await?;
    assert_eq!(lines(&out, "a"), 1);
    let (text, is_good) = crisp(&machine, &["down", "alone"])?;
    assert!(is_good, "{text}");
    machine.close().await
}

/// With its hook and its grace period, although the next server did not start it.
#[tokio::test(flavor = "multi_thread")]
async fn a_pod_on_its_way_down_goes_down_when_the_server_dies() -> Result<()> {
    needs!("docker-registry", "busybox");
    let (mut machine, image) = machine().await?;
    let out = out(&machine)?;
    let line = "echo x >> /out/a; trap 'echo x >> /out/term' TERM; while [ ! -e /out/go ]; do sleep 0.1; done; echo x >> /out/bye";
    let hook = "lifecycle: {preStop: {exec: {command: [sh, -c, 'echo x >> /out/hook']}}}";
    let text = pod(&out, &image, "  terminationGracePeriodSeconds: 300\n", &[("a", line)])
        .replace("name: a,", &format!("name: a, {hook},"));
    let file = write(&machine, "pod.yaml", &text)?;
    let (text, is_good) = crisp(&machine, &["up", &file])?;
    assert!(is_good, "{text}");
    std::thread::scope(|scope| -> Result<()> {
        let down = scope.spawn(|| crisp(&machine, &["down", "alone"]).map_err(|error| error.to_string()));
        let tested = tokio::task::block_in_place(|| {
            tokio::runtime::Handle::current()
                .block_on(until(&machine, "is not asked to end", || Ok(lines(&out, "term") == 1)))
        });
        let _ = kill_process(Pid::from_raw(machine.server_pid() as i32).ok_or("no pid")?, Signal::KILL);
        down.join().map_err(|_| "the client has panicked")??;
        tested
    })?;
    machine.kill_server();
    machine.start_server().await?;
    until(&machine, "is not asked to end again", || Ok(lines(&out, "term") == 2)).await?;
    assert_eq!(lines(&out, "hook"), 2);
    std::fs::write(out.join("go"), "")?;
    until(&machine, "does not go down", || Ok(!is_listed(&machine, "alone")?)).await?;
    assert_eq!((lines(&out, "a"), lines(&out, "bye")), (1, 1));
    assert_eq!(std::fs::read_dir(machine.root().join("standalone/pods"))?.count(), 0);
    machine.close().await
}

/// A pod of a Job that ends with the machine has failed, and is started again within the Job's limit.
#[tokio::test(flavor = "multi_thread")]
async fn failures_of_a_job_are_counted_over_servers() -> Result<()> {
    needs!("docker-registry", "busybox");
    let (mut machine, image) = machine().await?;
    let out = out(&machine)?;
    let spec = "  restartPolicy: Never\n  terminationGracePeriodSeconds: 1\n";
    let line = "echo x >> /out/a; touch /work/x; ls /work > /out/work; exec sleep 1000";
    let text = pod(&out, &image, spec, &[("a", line)])
        .replace("uid: u-1", "uid: u-1, annotations: {crisp/backoff-limit: '1'}");
    let file = write(&machine, "pod.yaml", &text)?;
    let (text, is_good) = crisp(&machine, &["up", &file])?;
    assert!(is_good, "{text}");
    for count in [1, 2] {
        until(&machine, "does not run", || Ok(lines(&out, "a") == count)).await?;
        until(&machine, "does not run", || is_listed(&machine, "Running")).await?;
        machine.kill_server();
        kill_pods(&machine);
        machine.start_server().await?;
    }
    until(&machine, "has not ended", || is_listed(&machine, "Failed (255)")).await?;
    assert_eq!(lines(&out, "a"), 2);
    let (text, is_good) = crisp(&machine, &["down", "alone"])?;
    assert!(is_good, "{text}");
    machine.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_counts_from_the_beginning_over_servers() -> Result<()> {
    needs!("docker-registry", "busybox");
    let (mut machine, image) = machine().await?;
    let out = out(&machine)?;
    let spec = "  activeDeadlineSeconds: 3600\n  terminationGracePeriodSeconds: 1\n";
    let file = write(&machine, "pod.yaml", &pod(&out, &image, spec, &[("a", "exec sleep 1000")]))?;
    let (text, is_good) = crisp(&machine, &["up", &file])?;
    assert!(is_good, "{text}");
    machine.kill_server();
    // The status says that it began an hour and a second ago.
    let path = machine.root().join("standalone/pods/u-1.status");
    let mut status: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&path)?)?;
    let begun = status["begun_at"].as_i64().ok_or("no begin")?;
    status["begun_at"] = (begun - 3601 * 1_000_000_000).into();
    std::fs::write(&path, status.to_string())?;
    machine.start_server().await?;
    until(&machine, "does not end", || is_listed(&machine, "Failed (124)")).await?;
    let (text, is_good) = crisp(&machine, &["down", "alone"])?;
    assert!(is_good, "{text}");
    machine.close().await
}

/// A kubelet removes each pod that it does not know.
#[tokio::test(flavor = "multi_thread")]
async fn beside_the_pods_of_a_kubelet_no_manifest_is_run() -> Result<()> {
    needs!("docker-registry", "busybox");
    let (machine, image) = machine().await?;
    let mut client = machine.client().await?;
    let mut config = request::pod(&machine, "of-a-kubelet");
    config.annotations.insert("kubernetes.io/config.source".to_owned(), "api".to_owned());
    client.run_pod(&config).await?;
    let file = write(&machine, "pod.yaml", &manifest(&image, "", &[("a", "sleep 1000")]))?;
    let (text, is_good) = crisp(&machine, &["up", &file])?;
    assert!(!is_good && text.contains("a kubelet uses this server"), "{text}");
    machine.close().await
}

/// A removed image is pulled again for the next start of a container.
#[tokio::test(flavor = "multi_thread")]
async fn a_container_is_started_again_when_its_image_was_removed() -> Result<()> {
    needs!("docker-registry", "busybox");
    let (machine, image) = machine().await?;
    let out = out(&machine)?;
    let line = "echo x >> /out/a; while [ ! -e /out/go ]; do sleep 0.1; done; rm /out/go; exit 1";
    let file = write(
        &machine,
        "pod.yaml",
        &pod(&out, &image, "  terminationGracePeriodSeconds: 1\n", &[("a", line)]),
    )?;
    let (text, is_good) = crisp(&machine, &["up", &file])?;
    assert!(is_good, "{text}");
    until(&machine, "does not begin", || Ok(lines(&out, "a") == 1)).await?;
    let mut client = machine.client().await?;
    let spec = ImageSpec { image: image.clone(), ..Default::default() };
    client.images.remove_image(RemoveImageRequest { image: Some(spec) }).await?;
    std::fs::write(out.join("go"), "")?;
    until(&machine, "is not started again", || Ok(lines(&out, "a") == 2)).await?;
    let (text, is_good) = crisp(&machine, &["down", "alone"])?;
    assert!(is_good, "{text}");
    machine.close().await
}

/// The record is from another release, with a field that this release refuses.
#[tokio::test(flavor = "multi_thread")]
async fn a_pod_whose_record_cannot_be_used_is_listed_and_goes_down() -> Result<()> {
    needs!("docker-registry", "busybox");
    let (mut machine, image) = machine().await?;
    let out = out(&machine)?;
    let spec = "  terminationGracePeriodSeconds: 1\n";
    let file = write(&machine, "pod.yaml", &pod(&out, &image, spec, &[("a", "exec sleep 1000")]))?;
    let (text, is_good) = crisp(&machine, &["up", &file])?;
    assert!(is_good, "{text}");
    machine.kill_server();
    let path = machine.root().join("standalone/pods/u-1.json");
    let mut record: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&path)?)?;
    record["document"]["spec"]["ofTheFuture"] = true.into();
    std::fs::write(&path, record.to_string())?;
    machine.start_server().await?;
    let (text, is_good) = crisp(&machine, &["up"])?;
    assert!(is_good && text.contains("alone") && text.contains("Unreadable"), "{text}");
    let (text, is_good) = crisp(&machine, &["up", &file])?;
    assert!(!is_good && text.contains("crisp down u-1 takes it down"), "{text}");
    // One name does not exist; the other pod is still removed.
    let (text, is_good) = crisp(&machine, &["down", "alone", "other"])?;
    assert!(!is_good && text.contains("alone: is down") && text.contains("called other"), "{text}");
    assert_eq!(std::fs::read_dir(machine.root().join("standalone/pods"))?.count(), 0);
    assert_eq!(machine.monitors("").len(), 0);
    machine.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_with_a_generated_name_goes_down_by_its_file() -> Result<()> {
    needs!("docker-registry", "busybox");
    let (machine, image) = machine().await?;
    let text = manifest(&image, "  terminationGracePeriodSeconds: 1\n", &[("a", "exec sleep 1000")]);
    let file = write(&machine, "pod.yaml", &text.replace("name: alone", "generateName: some-"))?;
    for _ in 0..2 {
        let (text, is_good) = crisp(&machine, &["up", &file])?;
        assert!(is_good, "{text}");
    }
    let (text, is_good) = crisp(&machine, &["down", &file])?;
    assert!(is_good && text.matches("is down").count() == 2, "{text}");
    machine.close().await
}
