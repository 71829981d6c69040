//! `crisp why` for prepared failures: it must name the cause of each.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use crisp_e2e::{Lab, Machine, Result, Setup, needs, request};
use k8s_cri::v1::{
    ContainerConfig, ImageSpec, LinuxContainerConfig, LinuxContainerResources, Mount, PullImageRequest,
    RemovePodSandboxRequest, StopContainerRequest,
};
use serde_json::json;

pub fn why(machine: &Machine, name: &str) -> Result<String> {
    let output = machine.crisp(&["why", name])?;
    let text = String::from_utf8(output.stdout)?;
    if output.status.success() { Ok(text) } else { Err(String::from_utf8(output.stderr)?.into()) }
}

/// Asserts that the cause that is found for the pod contains all of `words`.
#[track_caller]
pub fn named(machine: &Machine, pod: &str, heading: &str, words: &[&str]) {
    let text = why(machine, pod).expect("an answer");
    let last = text.lines().last().unwrap_or_default();
    assert!(last.starts_with(heading), "{text}");
    for word in words {
        assert!(last.contains(word), "{word:?} is missing: {text}");
    }
}

async fn ends(lab: &mut Lab, pod: &str, config: &ContainerConfig) -> Result<()> {
    lab.run(pod, config).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn ends_of_containers_are_explained() -> Result<()> {
    needs!("docker-registry", "busybox");
    let mut lab = Lab::start().await?;
    let shell = |line: &str| lab.shell(line);
    let (code, missing, crash) =
        (shell("exit 3"), shell("no-such-program"), shell("sh -c 'kill -SEGV $$'; exit $?"));
    let mut oom = shell("dd if=/dev/zero of=/dev/null bs=200M count=1");
    let resources = LinuxContainerResources { memory_limit_in_bytes: 20 << 20, ..Default::default() };
    oom.linux = Some(LinuxContainerConfig { resources: Some(resources), ..Default::default() });
    for (pod, config) in [("code", &code), ("missing", &missing), ("crash", &crash), ("oom", &oom)] {
        ends(&mut lab, pod, config).await?;
    }
    named(&lab.machine, "code", "Cause", &["container main", "exit code 3", "own failure"]);
    named(&lab.machine, "default/missing", "Cause", &["exit code 127", "command not found"]);
    named(&lab.machine, "crash/main", "Cause", &["SIGSEGV", "crashed"]);
    named(&lab.machine, "oom", "Cause", &["out of memory", "limit"]);

    let (sandbox, pod) = lab.pod("killed").await?;
    let id = lab.client.launch(&pod, &lab.shell("sleep 1000"), &sandbox).await?;
    named(&lab.machine, "killed", "Nothing is wrong", &[]);
    let pid = String::from_utf8(lab.machine.crisp(&["inspect", "--format", "{{.State.Pid}}", &id])?.stdout)?;
    let pid = rustix::process::Pid::from_raw(pid.trim().parse()?).ok_or("no process")?;
    rustix::process::kill_process(pid, rustix::process::Signal::KILL)?;
    lab.client.wait(&id).await?;
    named(&lab.machine, "killed", "Cause", &["SIGKILL", "from outside"]);

    let (sandbox, pod) = lab.pod("stopped").await?;
    let id =
        lab.client.launch(&pod, &lab.shell("trap '' TERM; while :; do sleep 0.1; done"), &sandbox).await?;
    lab.client.runtime.stop_container(StopContainerRequest { container_id: id, timeout: 1 }).await?;
    named(&lab.machine, "stopped", "Ended", &["SIGKILL", "did not end by itself"]);
    let story = why(&lab.machine, "stopped")?;
    assert!(story.contains("was asked to stop (SIGKILL after 1 s)"), "{story}");
    lab.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_are_explained_also_of_pods_that_are_gone_and_after_a_restart() -> Result<()> {
    needs!("docker-registry", "busybox");
    let mut lab = Lab::start().await?;
    let absent = lab.image.replace("busybox:1", "absent:1");
    let sandbox_config = Some(request::pod(&lab.machine, "no-image"));
    let image = Some(ImageSpec { image: absent.clone(), ..Default::default() });
    let pull = PullImageRequest { image, sandbox_config, ..Default::default() };
    lab.client.images.pull_image(pull).await.expect_err("there is no such image");
    lab.refused("not-pulled", &request::shell("main", &absent, "true")).await?;
    lab.refused("no-command", &request::container("main", &lab.image, &["/no/such/program"])).await?;
    let mut mounts = lab.shell("true");
    mounts.mounts.push(Mount {
        container_path: "/data".into(),
        host_path: "/proc/no-such-folder".into(),
        ..Default::default()
    });
    lab.refused("no-mount", &mounts).await?;
    let check = |lab: &Lab| {
        named(&lab.machine, "no-image", "Cause", &["pulling", "the image was not found", &absent]);
        named(&lab.machine, "not-pulled", "Cause", &["the image is not here", &absent]);
        named(&lab.machine, "no-command", "Cause", &["command not found", "/no/such/program"]);
        named(&lab.machine, "no-mount", "Cause", &["mount", "/proc/no-such-folder"]);
    };
    check(&lab);
    let pods = lab.client.runtime.list_pod_sandbox(k8s_cri::v1::ListPodSandboxRequest::default()).await?;
    for pod in pods.into_inner().items {
        let remove = RemovePodSandboxRequest { pod_sandbox_id: pod.id };
        lab.client.runtime.remove_pod_sandbox(remove).await?;
    }
    lab.machine.stop_server()?;
    lab.machine.start_server().await?;
    lab.client = lab.machine.client().await?;
    check(&lab);
    let story = why(&lab.machine, "no-command")?;
    for words in
        ["the pod was made", "container main was created from the image", "was removed", "was pulled in"]
    {
        assert!(story.contains(words), "{words}: {story}");
    }
    let unknown = why(&lab.machine, "never-was").expect_err("unknown").to_string();
    assert!(unknown.contains("never-was"), "{unknown}");
    lab.close().await
}

fn plugin(folder: &Path, name: &str, script: &str) -> Result<()> {
    let path = folder.join(name);
    std::fs::write(&path, format!("#!/bin/sh\n[ $CNI_COMMAND = ADD ] || exit 0\n{script}\n"))?;
    Ok(std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755))?)
}

fn configure(machine: &Machine, plugin: &str) -> Result<()> {
    let config = json!({"cniVersion": "1.0.0", "name": "e2e", "plugins": [{"type": plugin}]});
    std::fs::write(machine.cni().join("10-e2e.conflist"), config.to_string())?;
    std::thread::sleep(Duration::from_millis(20));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn plugins_that_fail_or_hang_and_stages_that_do_not_end_are_explained() -> Result<()> {
    needs!("docker-registry", "busybox");
    let _alone = crate::cni::ALONE.lock().await;
    let folder = tempfile::tempdir()?;
    plugin(folder.path(), "refuse", "echo '{\"code\": 11, \"msg\": \"no room at the inn\"}'; exit 1")?;
    plugin(folder.path(), "sleepy", "sleep 60")?;
    let args = ["--cni-bin-dir", &folder.path().display().to_string(), "--cni-timeout", "8"];
    let args = args.map(str::to_owned).to_vec();
    let faults = Some("run_pod/open@default/late=hang".to_owned());
    let mut lab = Lab::start_with(Setup { cni: true, args, faults, ..Setup::default() }).await?;
    configure(&lab.machine, "refuse")?;
    lab.client.run_pod(&request::pod(&lab.machine, "refused")).await.expect_err("ADD fails");
    named(&lab.machine, "refused", "Cause", &["CNI plugin", "refuse", "no room at the inn"]);

    configure(&lab.machine, "sleepy")?;
    let (mut client, config) = (lab.client.clone(), request::pod(&lab.machine, "sleepy"));
    let run = tokio::spawn(async move { client.run_pod(&config).await });
    let mut stuck = String::new();
    while !(stuck.contains("run_pod") && stuck.contains("the CNI plugin sleepy (ADD) of network e2e")) {
        assert!(!run.is_finished(), "{stuck}");
        tokio::time::sleep(Duration::from_millis(100)).await;
        stuck = String::from_utf8(lab.machine.crisp(&["ps", "--stuck=100ms"])?.stdout)?;
    }
    run.await?.expect_err("ADD does not end");
    named(&lab.machine, "sleepy", "Cause", &["network", "not done in time", "sleepy"]);

    lab.client.run_pod(&request::pod(&lab.machine, "late")).await.expect_err("the stage hangs");
    named(&lab.machine, "late", "Cause", &["the stage open was not done in time"]);
    lab.close().await
}
