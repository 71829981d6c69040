//! CPU, memory and process limits: setting, changing and reaching them, and their metrics.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use crisp_e2e::{Lab, Result, needs, request};
use k8s_cri::v1::{
    ContainerStatsRequest, LinuxContainerConfig, LinuxContainerResources, ListPodSandboxStatsRequest,
    UpdateContainerResourcesRequest,
};

fn limited(
    mut config: k8s_cri::v1::ContainerConfig,
    resources: LinuxContainerResources,
) -> k8s_cri::v1::ContainerConfig {
    config.linux = Some(LinuxContainerConfig { resources: Some(resources), ..Default::default() });
    config
}

/// Reads the first existing file of a container's cgroup, by its names on v1 and v2.
fn cgroup_file(container: &str, names: &[&str]) -> Result<String> {
    let find = std::process::Command::new("find")
        .args(["/sys/fs/cgroup", "-type", "d", "-name", container])
        .output()?;
    let folders = String::from_utf8(find.stdout)?;
    for folder in folders.lines() {
        for name in names {
            let file = PathBuf::from(folder).join(name);
            if let Ok(text) = std::fs::read_to_string(file) {
                return Ok(text.trim().to_owned());
            }
        }
    }
    Err(format!("none of {names:?} for {container} below {folders:?}").into())
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_are_set_and_updated() -> Result<()> {
    needs!("docker-registry", "busybox");
    let mut lab = Lab::start().await?;
    let (sandbox, pod) = lab.pod("limits").await?;
    let resources = LinuxContainerResources {
        cpu_quota: 50_000,
        cpu_period: 100_000,
        cpu_shares: 512,
        memory_limit_in_bytes: 32 << 20,
        cpuset_cpus: "0".into(),
        ..Default::default()
    };
    let id = lab.client.launch(&pod, &limited(lab.shell("sleep 100"), resources), &sandbox).await?;
    let memory = ["memory.limit_in_bytes", "memory.max"];
    assert_eq!(cgroup_file(&id, &memory)?, (32 << 20).to_string());
    assert!(
        ["50000", "50000 100000"].contains(&cgroup_file(&id, &["cpu.cfs_quota_us", "cpu.max"])?.as_str())
    );
    assert_eq!(cgroup_file(&id, &["cpuset.cpus"])?, "0");
    let linux = LinuxContainerResources {
        memory_limit_in_bytes: 48 << 20,
        cpu_quota: 80_000,
        cpu_period: 100_000,
        ..Default::default()
    };
    let request = UpdateContainerResourcesRequest {
        container_id: id.clone(),
        linux: Some(linux),
        ..Default::default()
    };
    lab.client.runtime.update_container_resources(request).await?;
    assert_eq!(cgroup_file(&id, &memory)?, (48 << 20).to_string());
    let status = lab.client.status(&id).await?;
    let told = status.resources.and_then(|r| r.linux).ok_or("no resources in the status")?;
    assert_eq!((told.memory_limit_in_bytes, told.cpu_quota, told.cpu_shares), (48 << 20, 80_000, 512));
    lab.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_eats_too_much_is_oom_killed() -> Result<()> {
    needs!("docker-registry", "busybox");
    let mut lab = Lab::start().await?;
    let resources = LinuxContainerResources {
        memory_limit_in_bytes: 16 << 20,
        memory_swap_limit_in_bytes: 16 << 20,
        ..Default::default()
    };
    let (status, _) =
        lab.run("oom", &limited(lab.shell("dd if=/dev/zero of=/dev/null bs=64M count=1"), resources)).await?;
    assert_eq!((status.exit_code, status.reason.as_str()), (137, "OOMKilled"), "{status:?}");
    lab.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn stats_are_true() -> Result<()> {
    needs!("docker-registry", "busybox");
    let mut lab = Lab::start().await?;
    let (sandbox, pod) = lab.pod("stats").await?;
    let line = "dd if=/dev/zero of=/blob bs=1M count=3 2>/dev/null; while true; do :; done";
    let id = lab.client.launch(&pod, &request::shell("main", &lab.image, line), &sandbox).await?;
    let mut usage = Vec::new();
    let start = Instant::now();
    for _ in 0..2 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let request = ContainerStatsRequest { container_id: id.clone() };
        let stats =
            lab.client.runtime.container_stats(request).await?.into_inner().stats.ok_or("no stats")?;
        usage.push((stats, start.elapsed()));
    }
    let nanos =
        |n: usize| usage[n].0.cpu.as_ref().and_then(|c| c.usage_core_nano_seconds).map_or(0, |v| v.value);
    let (burnt, passed) = ((nanos(1) - nanos(0)) as f64 / 1e9, (usage[1].1 - usage[0].1).as_secs_f64());
    assert!(burnt > 0.1 * passed && burnt < 1.2 * passed, "{burnt} s of CPU in {passed} s");
    let memory = usage[1].0.memory.ok_or("no memory")?;
    assert!(memory.working_set_bytes.is_some_and(|v| v.value > 0), "{memory:?}");
    let written =
        usage[1].0.writable_layer.clone().and_then(|l| l.used_bytes).ok_or("no writable layer")?.value;
    assert!((3 << 20..5 << 20).contains(&written), "{written}");
    let list = lab
        .client
        .runtime
        .list_pod_sandbox_stats(ListPodSandboxStatsRequest::default())
        .await?
        .into_inner()
        .stats;
    let linux = list.first().and_then(|s| s.linux.clone()).ok_or("no pod stats")?;
    assert_eq!(linux.containers.len(), 1);
    assert!(linux.network.and_then(|n| n.default_interface).is_some_and(|i| i.name == "eth0"));
    lab.close().await
}

/// Ticks of CPU time that a process has used, a hundred per second; fields 14 and 15 of proc_pid_stat(5).
fn cpu_ticks(pid: u32) -> Result<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields = stat.rsplit_once(')').ok_or("no name")?.1;
    Ok(fields.split_whitespace().skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).sum())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_descriptors_waits_for_them_without_using_the_cpu() -> Result<()> {
    use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
    needs!("docker-registry", "busybox");
    let lab = Lab::start().await?;
    let server = lab.machine.server_pid();
    let pid = i32::try_from(server).ok().and_then(Pid::from_raw);
    let usual = prlimit(pid, Resource::Nofile, getrlimit(Resource::Nofile))?;
    assert_eq!(usual.current, usual.maximum, "the server raises its limit");
    let open = std::fs::read_dir(format!("/proc/{server}/fd"))?.count() as u64;
    prlimit(pid, Resource::Nofile, Rlimit { current: Some(open + 4), ..usual })?;
    let connections = (0..50).map(|_| std::os::unix::net::UnixStream::connect(lab.machine.socket()));
    let connections: Vec<_> = connections.collect::<Result<_, _>>()?;
    let before = cpu_ticks(server)?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let used = cpu_ticks(server)? - before;
    assert!(used < 25, "{used} ticks in a second");
    drop(connections);
    prlimit(pid, Resource::Nofile, usual)?;
    lab.close().await
}
