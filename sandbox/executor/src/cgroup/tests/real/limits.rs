//! Limits: they reach the kernel, and the kernel enforces them.

use super::*;

#[test]
fn limits_reach_the_kernel_and_can_go_up_and_down() {
    let Some(own) = Own::new() else { return };
    assert!(own.cgroup.created());
    assert!(!own.cgroups.create(own.cgroup.path()).unwrap().created());
    for mib in [64i64, 16, 128] {
        let limits = Resources {
            memory: Memory { limit: Some(mib << 20), swap: Some(mib << 20), ..Memory::default() },
            cpu: Cpu { shares: Some(512), quota: Some(mib * 1000), period: Some(100_000), ..Cpu::default() },
            pids: Some(mib),
            ..Resources::default()
        };
        own.cgroup.apply(&limits).unwrap();
        let stats = own.cgroup.stats().unwrap();
        assert_eq!(stats.memory.unwrap().limit, Some(mib as u64 * 1024 * 1024));
        assert_eq!(stats.pids.unwrap().limit, Some(mib as u64));
    }
    let v1 = !own.cgroups.host.v1.is_empty();
    let effective = if v1 { "cpuset.effective_cpus" } else { "cpuset.cpus.effective" };
    assert!(!own.host_file(Controller::Cpuset, effective).is_empty());
    own.cgroup
        .apply(&Resources { cpuset: Cpuset { cpus: Some("0".into()), mems: None }, ..Resources::default() })
        .unwrap();
    assert_eq!(own.host_file(Controller::Cpuset, "cpuset.cpus"), "0");
    let wrong =
        Resources { cpuset: Cpuset { cpus: Some("90000".into()), mems: None }, ..Resources::default() };
    let error = own.cgroup.apply(&wrong).unwrap_err().to_string();
    assert!(error.contains("cpuset.cpus: cannot write 90000"), "{error}");
}

#[test]
fn an_oom_kill_is_counted() {
    let Some(own) = Own::new() else { return };
    let memory = Memory { limit: Some(8 << 20), swap: Some(8 << 20), ..Memory::default() };
    own.cgroup.apply(&Resources { memory, ..Resources::default() }).unwrap();
    assert_eq!(own.cgroup.oom_kills().unwrap(), 0);
    let mut child = own.run("x=$(head -c 100000000 /dev/zero | tr '\\0' x); echo $x");
    child.wait().unwrap();
    assert!(own.cgroup.oom_kills().unwrap() > 0);
}

#[test]
fn burst_and_idle_can_be_changed_in_any_order() {
    let Some(own) = Own::new() else { return };
    let cpu = |quota, burst, idle| Cpu {
        quota: Some(quota),
        period: Some(100_000),
        burst: Some(burst),
        idle: Some(idle),
        shares: Some(512),
    };
    let at = apply::at(&own.cgroup.host, Controller::Cpu, own.cgroup.path()).unwrap().unwrap();
    let names = match at {
        apply::At::V1(_) => ["cpu.cfs_quota_us", "cpu.cfs_burst_us", "cpu.shares"],
        apply::At::V2(_) => ["cpu.max", "cpu.max.burst", "cpu.weight"],
    };
    if at.dir().read_opt(names[1], &mut [0; 64]).unwrap().is_none() {
        crisp_skip::unsupported!(Kernel("burst of CPU time (5.14)"));
    }
    for (quota, burst, idle) in
        [(50_000, 40_000, false), (20_000, 10_000, true), (90_000, 80_000, false), (10_000, 10_000, false)]
    {
        let resources = Resources { cpu: cpu(quota, burst, idle), ..Resources::default() };
        own.cgroup.apply(&resources).unwrap();
        let found = names.map(|name| own.host_file(Controller::Cpu, name));
        assert!(found[0].starts_with(&quota.to_string()), "{found:?}");
        assert_eq!(found[1], burst.to_string());
        assert_eq!(own.host_file(Controller::Cpu, "cpu.idle"), u32::from(idle).to_string());
        assert!(idle || ["512", "59"].contains(&found[2].as_str()), "{found:?}");
    }
    let too_much = Resources { cpu: cpu(10_000, 20_000, false), ..Resources::default() };
    let error = own.cgroup.apply(&too_much).unwrap_err().to_string();
    assert!(error.contains("burst") && error.contains("20000"), "{error}");
}

/// The number of a disk of this host.
fn disk() -> Option<String> {
    let disks = std::fs::read_dir("/sys/block").unwrap().flatten();
    let mut disks = disks.filter(|disk| disk.file_name().to_string_lossy().starts_with(['v', 's', 'n']));
    Some(std::fs::read_to_string(disks.next()?.path().join("dev")).unwrap().trim().to_owned())
}

#[test]
fn rates_of_a_disk_reach_the_kernel_and_go_again() {
    let Some(own) = Own::new() else { return };
    let Some(disk) = disk() else { crisp_skip::unsupported!(Device("disk of its own")) };
    let (major, minor) = disk.split_once(':').unwrap();
    let (major, minor) = (major.parse().unwrap(), minor.parse().unwrap());
    let file = match own.cgroup.host.hierarchy_of(Controller::Io) {
        Some(hierarchy::ControllerHierarchy::V1(_)) => "blkio.throttle.write_bps_device",
        Some(hierarchy::ControllerHierarchy::V2(_)) => "io.max",
        None => crisp_skip::unsupported!(Controller("io")),
    };
    for rate in [1 << 20, 2 << 20, 0] {
        let rates = vec![IoRate { major, minor, kind: IoRateKind::WriteBytes, rate }];
        let io = BlockIo { rates, ..BlockIo::default() };
        own.cgroup.apply(&Resources { io, ..Resources::default() }).unwrap();
        let found = own.host_file(Controller::Io, file);
        let expected = if rate == 0 { String::new() } else { rate.to_string() };
        assert!(found.contains(&expected) && found.is_empty() == (rate == 0), "{rate}: {found:?}");
    }
    let rates = vec![IoRate { major: 4095, minor: 7, kind: IoRateKind::Reads, rate: 1 }];
    let io = BlockIo { rates, ..BlockIo::default() };
    let error = own.cgroup.apply(&Resources { io, ..Resources::default() }).unwrap_err().to_string();
    assert!(error.contains("4095:7"), "{error}");
}
