//! Limits and devices at the creation of a container.

use std::path::{Path, PathBuf};

use crisp_e2e::{Result, says};
use k8s_cri::v1::{CdiDevice, Device, HugepageLimit, LinuxContainerResources};

use crate::cri::{Cri, limited, unique};

promises! {
    memory_is_limited: Kubernetes, ["LinuxContainerConfig.resources", "LinuxContainerResources.memory_limit_in_bytes"],
        "A memory limit is the container's cgroup's";
    swap_is_limited: Kubernetes, ["LinuxContainerResources.memory_swap_limit_in_bytes"],
        "A limit of memory and swap together is the container's cgroup's";
    cpu_time_is_limited: Kubernetes, ["LinuxContainerResources.cpu_quota", "LinuxContainerResources.cpu_period"],
        "A CPU quota and period are the container's cgroup's";
    cpu_shares_are_set: Kubernetes, ["LinuxContainerResources.cpu_shares"],
        "CPU shares are the container's cgroup's, on cgroup v2 as a weight";
    cpus_are_chosen: Kubernetes, ["LinuxContainerResources.cpuset_cpus", "LinuxContainerResources.cpuset_mems"],
        "A container's processes run on the CPUs and memory nodes of its cpuset alone";
    the_oom_score_is_set: Kubernetes, ["LinuxContainerResources.oom_score_adj"],
        "A container's processes have its OOM score";
    hugepages_are_limited: Kubernetes, ["LinuxContainerResources.hugepage_limits", "HugepageLimit.page_size",
        "HugepageLimit.limit"],
        "A limit of huge pages is the container's cgroup's";
    unified_files_are_written: Cri, ["LinuxContainerResources.unified"],
        "On cgroup v2 the files of `unified` are written into the container's cgroup";
    too_much_memory_is_oom_killed: Cri, ["ContainerStatus.reason"],
        "A container that is killed for its memory is exited with 137 for the reason OOMKilled";
    limits_hold_all_processes: Kubernetes, ["LinuxContainerConfig.resources"],
        "A command of exec is in the container's cgroup";
    a_device_is_there_with_its_permissions: Cri, ["ContainerConfig.devices", "Device.container_path",
        "Device.host_path", "Device.permissions"],
        "A device of the host is in the container under its path, with the permissions that were given alone";
    a_missing_device_is_refused: Cri, ["Device.host_path"],
        "A device that the host does not have is refused by its path";
    a_cdi_device_is_injected: Kubernetes, ["ContainerConfig.CDI_devices", "CDIDevice.name"],
        "A CDI device by its name brings what its specification says: environment, mounts, devices";
    an_unknown_cdi_device_is_refused: Kubernetes, ["CDIDevice.name"],
        "A CDI device that is in no specification is refused by its name";
}

/// The cgroups of a container, in every hierarchy.
pub fn cgroups_of(container: &str) -> Result<Vec<String>> {
    folders_of_cgroups("-name", &format!("*{container}*"))
}

fn folders_of_cgroups(test: &str, pattern: &str) -> Result<Vec<String>> {
    let find =
        std::process::Command::new("find").args(["/sys/fs/cgroup", "-type", "d", test, pattern]).output()?;
    Ok(String::from_utf8(find.stdout)?.lines().map(ToOwned::to_owned).collect())
}

/// Reads the first existing file of a container's cgroup, by its names on v1 and v2.
pub fn cgroup_file(container: &str, names: &[&str]) -> Result<String> {
    let folders = cgroups_of(container)?;
    let files = folders.iter().flat_map(|folder| names.iter().map(move |name| Path::new(folder).join(name)));
    let text = files.filter_map(|file| std::fs::read_to_string(file).ok()).next();
    let text = text.ok_or_else(|| format!("none of {names:?} in {folders:?}"))?;
    Ok(text.trim().to_owned())
}

pub fn is_v2() -> bool {
    Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}

/// Whether the kernel's memory cgroups measure swap.
fn counts_swap(container: &str) -> bool {
    cgroup_file(container, &["memory.memsw.limit_in_bytes", "memory.swap.max"]).is_ok()
}

pub const MEMORY: [&str; 2] = ["memory.limit_in_bytes", "memory.max"];
pub const CPU: [&str; 2] = ["cpu.cfs_quota_us", "cpu.max"];
pub const SHARES: [&str; 2] = ["cpu.shares", "cpu.weight"];

/// Makes a new pod with a container that has these limits; returns the container's id.
pub async fn with_limits(cri: &mut Cri, resources: LinuxContainerResources) -> Result<String> {
    let config = limited(cri.shell("exec sleep 1000"), resources);
    Ok(cri.running_as(&config).await?.1)
}

async fn memory_is_limited(cri: &mut Cri) -> Result<()> {
    let resources = LinuxContainerResources { memory_limit_in_bytes: 64 << 20, ..Default::default() };
    let id = with_limits(cri, resources).await?;
    assert_eq!(cgroup_file(&id, &MEMORY)?, (64 << 20).to_string());
    Ok(())
}

async fn swap_is_limited(cri: &mut Cri) -> Result<()> {
    let resources = LinuxContainerResources {
        memory_limit_in_bytes: 64 << 20,
        memory_swap_limit_in_bytes: 96 << 20,
        ..Default::default()
    };
    let id = with_limits(cri, resources).await?;
    if !counts_swap(&id) {
        crisp_skip::unsupported!(Controller("memory, with swap,"));
    }
    let expected = if is_v2() { 32 << 20 } else { 96 << 20 };
    let limit = cgroup_file(&id, &["memory.memsw.limit_in_bytes", "memory.swap.max"])?;
    assert_eq!(limit, expected.to_string());
    Ok(())
}

async fn cpu_time_is_limited(cri: &mut Cri) -> Result<()> {
    let resources = LinuxContainerResources { cpu_quota: 40_000, cpu_period: 80_000, ..Default::default() };
    let id = with_limits(cri, resources).await?;
    let quota = cgroup_file(&id, &CPU)?;
    if is_v2() {
        assert_eq!(quota, "40000 80000");
    } else {
        assert_eq!((quota.as_str(), cgroup_file(&id, &["cpu.cfs_period_us"])?.as_str()), ("40000", "80000"));
    }
    Ok(())
}

async fn cpu_shares_are_set(cri: &mut Cri) -> Result<()> {
    let mut seen = Vec::new();
    for cpu_shares in [512, 4096] {
        let resources = LinuxContainerResources { cpu_shares, ..Default::default() };
        let id = with_limits(cri, resources).await?;
        seen.push(cgroup_file(&id, &SHARES)?.parse::<i64>()?);
    }
    if is_v2() {
        // Kernels convert shares to a weight differently, but more shares always give more weight.
        assert!(seen[0] < 100 && seen[1] > 100, "{seen:?}");
    } else {
        assert_eq!(seen, [512, 4096]);
    }
    Ok(())
}

async fn cpus_are_chosen(cri: &mut Cri) -> Result<()> {
    let resources =
        LinuxContainerResources { cpuset_cpus: "0".into(), cpuset_mems: "0".into(), ..Default::default() };
    let id = with_limits(cri, resources).await?;
    let allowed = cri.sh(&id, "grep _allowed_list /proc/self/status | tr -d '\\t'").await?;
    assert_eq!(allowed, "Cpus_allowed_list:0\nMems_allowed_list:0\n");
    assert_eq!(cgroup_file(&id, &["cpuset.mems"])?, "0");
    Ok(())
}

async fn the_oom_score_is_set(cri: &mut Cri) -> Result<()> {
    let resources = LinuxContainerResources { oom_score_adj: 567, ..Default::default() };
    let id = with_limits(cri, resources).await?;
    assert_eq!(cri.sh(&id, "cat /proc/1/oom_score_adj /proc/self/oom_score_adj").await?, "567\n567\n");
    Ok(())
}

async fn hugepages_are_limited(cri: &mut Cri) -> Result<()> {
    let controllers = std::fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap_or_default();
    let is_there = controllers.contains("hugetlb") || Path::new("/sys/fs/cgroup/hugetlb").exists();
    if !is_there || !Path::new("/sys/kernel/mm/hugepages/hugepages-2048kB").exists() {
        crisp_skip::unsupported!(Controller("hugetlb"));
    }
    let limit = HugepageLimit { page_size: "2MB".into(), limit: 4 << 20 };
    let resources = LinuxContainerResources { hugepage_limits: vec![limit], ..Default::default() };
    let id = with_limits(cri, resources).await?;
    let set = cgroup_file(&id, &["hugetlb.2MB.limit_in_bytes", "hugetlb.2MB.max"])?;
    assert_eq!(set, (4 << 20).to_string());
    Ok(())
}

async fn unified_files_are_written(cri: &mut Cri) -> Result<()> {
    if !is_v2() {
        crisp_skip::unsupported!(CgroupV2);
    }
    let unified = [("memory.high".to_owned(), (48 << 20).to_string())].into();
    let id = with_limits(cri, LinuxContainerResources { unified, ..Default::default() }).await?;
    assert_eq!(cgroup_file(&id, &["memory.high"])?, (48 << 20).to_string());
    Ok(())
}

async fn too_much_memory_is_oom_killed(cri: &mut Cri) -> Result<()> {
    let resources = LinuxContainerResources {
        memory_limit_in_bytes: 16 << 20,
        memory_swap_limit_in_bytes: 16 << 20,
        ..Default::default()
    };
    let config = limited(cri.shell("exec dd if=/dev/zero of=/dev/null bs=64M count=1"), resources);
    let pod = cri.pod().await?;
    let status = cri.end(&pod, &config).await?;
    assert_eq!((status.exit_code, status.reason.as_str()), (137, "OOMKilled"), "{status:?}");
    Ok(())
}

async fn limits_hold_all_processes(cri: &mut Cri) -> Result<()> {
    let (_pod, id) = cri.running().await?;
    let mut client = cri.client.clone();
    let container = id.clone();
    let command = tokio::spawn(async move { client.exec(&container, &["sh", "-c", "sleep 3"]).await });
    // The command and the process of the exec.
    let mut processes = 0;
    for _ in 0..40 {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        // Also in the cgroups below.
        let folders = folders_of_cgroups("-path", &format!("*{id}*"))?;
        let files: Vec<PathBuf> = folders.iter().map(|f| Path::new(f).join("cgroup.procs")).collect();
        let is_memory = |file: &&PathBuf| is_v2() || file.starts_with("/sys/fs/cgroup/memory");
        let texts = files.iter().filter(is_memory).filter_map(|file| std::fs::read_to_string(file).ok());
        processes = texts.map(|text| text.lines().count()).sum();
        if processes >= 2 {
            break;
        }
    }
    assert!(processes >= 2, "{processes} processes");
    command.await??;
    Ok(())
}

async fn a_device_is_there_with_its_permissions(cri: &mut Cri) -> Result<()> {
    // Devices that containers do not have by default, and that root can open without more capabilities.
    let usable = ["/dev/fuse", "/dev/loop-control"]
        .into_iter()
        .find(|path| std::fs::File::options().read(true).write(true).open(path).is_ok());
    let Some(host_path) = usable else { crisp_skip::unsupported!(Device("/dev/fuse")) };
    let device = |name: &str, permissions: &str| Device {
        container_path: format!("/dev/{name}"),
        host_path: host_path.into(),
        permissions: permissions.into(),
    };
    let line = "for d in all read; do (exec 3< /dev/$d) 2>/dev/null && echo $d read; \
        (exec 3> /dev/$d) 2>/dev/null && echo $d written; done; ls -l /dev/all | head -c 1";
    let mut both = cri.shell(line);
    both.devices = vec![device("all", "rwm"), device("read", "rwm")];
    let pod = cri.pod().await?;
    assert_eq!(cri.output_in(&pod, &both).await?.lines().count(), 5);
    // The devices controller knows numbers, not names, so the device must be read-only in the container too.
    let mut read = cri.shell(
        "exec 2>/dev/null; (exec 3< /dev/read) && echo read; (exec 3> /dev/read) && echo written; true",
    );
    read.devices = vec![device("read", "r")];
    assert_eq!(cri.output_in(&pod, &read).await?, "read\n");
    Ok(())
}

async fn a_missing_device_is_refused(cri: &mut Cri) -> Result<()> {
    let pod = cri.pod().await?;
    let mut config = cri.shell("true");
    config.devices = vec![Device {
        container_path: "/dev/x".into(),
        host_path: "/dev/no-such-device".into(),
        permissions: "rwm".into(),
    }];
    let refused = cri.launch(&pod, &config).await.expect_err("there is no such device");
    says(&refused, &["/dev/no-such-device"]);
    Ok(())
}

/// A file in the node's folder of CDI specifications; removed when it is dropped.
struct Specification(PathBuf);

impl Drop for Specification {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

async fn a_cdi_device_is_injected(cri: &mut Cri) -> Result<()> {
    let folder = cri.new_folder()?;
    std::fs::write(folder.join("library"), "a library\n")?;
    let vendor = unique("vendor");
    let spec = serde_json::json!({
        "cdiVersion": "0.6.0", "kind": format!("{vendor}.example/thing"),
        "devices": [{"name": "one", "containerEdits": {
            "env": ["THING=one"],
            "deviceNodes": [{"path": "/dev/thing", "hostPath": "/dev/zero"}],
            "mounts": [{"hostPath": folder.join("library"), "containerPath": "/lib/thing", "options": ["ro", "bind"]}],
        }}],
    });
    std::fs::create_dir_all("/var/run/cdi")?;
    let file = Specification(PathBuf::from(format!("/var/run/cdi/{vendor}.json")));
    std::fs::write(&file.0, spec.to_string())?;
    let mut config = cri.shell("echo $THING; cat /lib/thing; head -c 3 /dev/thing | wc -c");
    config.cdi_devices = vec![CdiDevice { name: format!("{vendor}.example/thing=one") }];
    // A runtime that watches the folder may notice the file a moment later.
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    assert_eq!(cri.output(&config).await?, "one\na library\n3\n");
    Ok(())
}

async fn an_unknown_cdi_device_is_refused(cri: &mut Cri) -> Result<()> {
    let pod = cri.pod().await?;
    let mut config = cri.shell("true");
    config.cdi_devices = vec![CdiDevice { name: "absent.example/thing=one".into() }];
    let refused = cri.launch(&pod, &config).await.expect_err("there is no such device");
    says(&refused, &["absent.example/thing=one"]);
    Ok(())
}
