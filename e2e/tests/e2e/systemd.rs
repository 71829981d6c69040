//! The systemd cgroup driver, on a host with systemd as its init.

use std::process::Command;

use crisp_e2e::{Lab, Result, needs, request};
use k8s_cri::v1::{
    CgroupDriver, ContainerState, LinuxContainerConfig, LinuxContainerResources, PodSandboxConfig,
    RemovePodSandboxRequest, RuntimeConfigRequest, StopPodSandboxRequest,
};

macro_rules! needs_systemd {
    () => {
        needs!("docker-registry", "busybox");
        if std::env::var("CRISP_TEST_CGROUP_DRIVER").as_deref() != Ok("systemd") {
            crisp_skip::unsupported!(CgroupDriver("systemd"));
        }
    };
}

fn systemctl(args: &[&str]) -> Result<String> {
    Ok(String::from_utf8(Command::new("systemctl").args(args).output()?.stdout)?)
}

fn with_parent(lab: &Lab, name: &str, parent: &str) -> PodSandboxConfig {
    let mut pod = request::pod(&lab.machine, name);
    pod.linux.get_or_insert_default().cgroup_parent = parent.into();
    pod
}

/// Names of slices in the form of kubelet, unique to this machine.
fn slice(lab: &Lab) -> (String, String) {
    let top = format!("e2e{}", lab.machine.bridge());
    let (top, pod) = (format!("{top}.slice"), format!("{top}-podab_cd.slice"));
    (format!("/{top}/{pod}"), top)
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_stay_over_reloads_of_systemd_and_deaths_of_the_server() -> Result<()> {
    needs_systemd!();
    let mut lab = Lab::start().await?;
    let (path, top) = slice(&lab);
    let sandbox = with_parent(&lab, "kept", &path);
    let pod = lab.client.run_pod(&sandbox).await?;
    let mut config = lab.shell("sleep 1000");
    let resources = LinuxContainerResources {
        memory_limit_in_bytes: 32 << 20,
        cpu_quota: 50_000,
        cpu_period: 100_000,
        ..Default::default()
    };
    config.linux = Some(LinuxContainerConfig { resources: Some(resources), ..Default::default() });
    let id = lab.client.launch(&pod, &config, &sandbox).await?;
    let cgroup = format!("/sys/fs/cgroup{path}/crisp-{pod}.scope/{id}");
    let file = |name: &str| std::fs::read_to_string(format!("{cgroup}/{name}"));
    for step in ["daemon-reload", "daemon-reexec", "server", "daemon-reload"] {
        if step == "server" {
            lab.machine.kill_server();
            lab.machine.start_server().await?;
            lab.client = lab.machine.client().await?;
        } else {
            systemctl(&[step])?;
        }
        assert_eq!(file("memory.max")?, format!("{}\n", 32 << 20), "{step}");
        assert_eq!(file("cpu.max")?, "50000 100000\n", "{step}");
        assert_eq!(file("cgroup.procs")?.lines().count(), 1, "{step}");
        assert_eq!(lab.client.status(&id).await?.state(), ContainerState::ContainerRunning, "{step}");
        assert_eq!(lab.client.exec(&id, &["echo", "here"]).await?.stdout, b"here\n"[..]);
    }
    lab.client.runtime.stop_pod_sandbox(StopPodSandboxRequest { pod_sandbox_id: pod.clone() }).await?;
    let unit = format!("crisp-{pod}.scope");
    assert_eq!(systemctl(&["show", "--value", "--property=LoadState", &unit])?.trim(), "not-found");
    lab.client.runtime.remove_pod_sandbox(RemovePodSandboxRequest { pod_sandbox_id: pod }).await?;
    systemctl(&["stop", &top])?;
    lab.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn kubelets_are_told_the_driver_and_those_with_the_other_refused() -> Result<()> {
    needs_systemd!();
    let mut lab = Lab::start().await?;
    let config = lab.client.runtime.runtime_config(RuntimeConfigRequest {}).await?.into_inner();
    assert_eq!(config.linux.map(|linux| linux.cgroup_driver()), Some(CgroupDriver::Systemd));
    let info = String::from_utf8(lab.machine.crisp(&["info"])?.stdout)?;
    for line in ["cgroup driver  systemd\n", "cgroup version v2\n", "controllers    cpu cpuset "] {
        assert!(info.contains(line), "{line}: {info}");
    }
    for parent in ["/kubepods/burstable/podab", "kubepods", "/kubepods.slice/../x.slice", "-.slice"] {
        let error = lab.client.run_pod(&with_parent(&lab, "refused", parent)).await.unwrap_err();
        assert_eq!(error.code(), tonic::Code::InvalidArgument, "{parent}: {error}");
        assert!(error.message().contains("config.linux.cgroup_parent"), "{parent}: {error}");
    }
    lab.close().await
}
