use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use super::super::dir::Dir;
use super::super::*;

/// A cgroup of this test alone; ended and removed with it.
struct Own {
    cgroups: Cgroups,
    cgroup: Cgroup,
    parent: CgroupPath,
}

impl Own {
    /// None, and a skip reported, where the test cannot run.
    fn new() -> Option<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        crisp_skip::needs!();
        let cgroups = Cgroups::detect().unwrap();
        let name = format!("/crisp-test-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let parent = CgroupPath::parse(&name).unwrap();
        let cgroup = cgroups.create(&parent.child("leaf").unwrap()).unwrap();
        Some(Self { cgroups, cgroup, parent })
    }

    fn host_file(&self, controller: Controller, file: &'static str) -> String {
        let at = apply::at(&self.cgroup.host, controller, self.cgroup.path()).unwrap().unwrap();
        at.dir().read(file, &mut [0u8; 4096]).unwrap().trim().to_owned()
    }

    /// A shell that does `script` once it is in the cgroup.
    fn run(&self, script: &str) -> Child {
        let mut child = Command::new("sh")
            .args(["-c", &format!("read go; {script}")])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let pid = child.id().to_string();
        for hierarchy in self.cgroup.host.v1.iter().chain(&self.cgroup.host.v2) {
            hierarchy.dir(self.cgroup.path()).unwrap().unwrap().write("cgroup.procs", &pid).unwrap();
        }
        std::io::Write::write_all(child.stdin.as_mut().unwrap(), b"go\n").unwrap();
        child
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        let _ = self.cgroup.kill();
        self.cgroups.remove(&self.parent).unwrap();
        assert!(self.cgroups.open(&self.parent).is_err());
    }
}

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
fn the_servers_umask_does_not_hide_a_cgroup_from_its_users() {
    let Some(own) = Own::new() else { return };
    let path = own.parent.child("seen").unwrap();
    std::thread::spawn(move || {
        // Leaves the process's shared umask to itself.
        crate::sys::unshare_mount_namespace().unwrap();
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
        let cgroups = Cgroups::detect().unwrap();
        cgroups.create(&path).unwrap();
        for hierarchy in cgroups.host.v1.iter().chain(&cgroups.host.v2) {
            let stat =
                rustix::fs::statat(hierarchy.root(), path.relative(), rustix::fs::AtFlags::empty()).unwrap();
            assert_eq!(stat.st_mode & 0o777, 0o755, "{:?}", hierarchy.mount);
        }
    })
    .join()
    .unwrap();
}

#[test]
fn a_fork_storm_is_killed_to_the_last_process() {
    let Some(own) = Own::new() else { return };
    own.cgroup.apply(&Resources { pids: Some(200), ..Resources::default() }).unwrap();
    let mut child = own.run("while :; do sh -c 'sleep 1000 & sleep 1000' & done 2>/dev/null");
    while own.cgroup.pids().unwrap().len() < 50 {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    own.cgroup.kill().unwrap();
    assert!(own.cgroup.pids().unwrap().is_empty());
    child.wait().unwrap();
    own.cgroup.remove().unwrap();
    own.cgroup.remove().unwrap();
}

#[test]
fn cgroups_made_inside_go_with_it_and_parents_stay() {
    let Some(own) = Own::new() else { return };
    own.cgroup.child("a").unwrap().child("b").unwrap();
    own.cgroup.remove().unwrap();
    assert!(own.cgroups.open(own.cgroup.path()).is_err());
    assert!(own.cgroups.open(&own.parent).is_ok());
    assert!(own.cgroups.remove_if_empty(&own.parent).unwrap());
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
fn device_rules_decide() {
    let Some(own) = Own::new() else { return };
    let apply =
        |rules| own.cgroup.apply(&Resources { devices: Some(rules), ..Resources::default() }).unwrap();
    let opens = |device: &str| own.run(&format!("exec 3<{device}")).wait().unwrap().success();
    apply(DeviceRule::container_defaults());
    assert!(opens("/dev/null"));
    assert!(!opens("/dev/kmsg"));
    let kmsg = DeviceRule {
        allow: true,
        kind: DeviceKind::Char,
        major: Some(1),
        minor: Some(11),
        access: Access::parse("r").unwrap(),
    };
    apply([DeviceRule::container_defaults(), vec![kmsg]].concat());
    assert!(opens("/dev/kmsg"));
    assert!(!own.run("exec 3>/dev/kmsg").wait().unwrap().success());
    apply(vec![DeviceRule::ALLOW_ALL]);
    assert!(own.run("exec 3>/dev/kmsg").wait().unwrap().success());
}

#[test]
fn the_v2_device_program_decides_like_v1() {
    let Some(own) = Own::new() else { return };
    let Some(v2) = &own.cgroup.host.v2 else {
        crisp_skip::unsupported!(CgroupV2);
    };
    let dir = v2.dir(own.cgroup.path()).unwrap().unwrap();
    let apply = |rules: &[DeviceRule]| devices::apply_v2(own.cgroup.path(), &dir, rules).unwrap();
    let opens = |how: &str| own.run(&format!("exec 3{how}")).wait().unwrap().success();
    let rule = |allow, access| DeviceRule {
        allow,
        kind: DeviceKind::Char,
        major: Some(1),
        minor: Some(3),
        access: Access::parse(access).unwrap(),
    };
    for _ in 0..2 {
        apply(&DeviceRule::container_defaults());
        assert!(opens("<>/dev/null") && opens("</dev/zero") && !opens("</dev/kmsg"));
    }
    // Bits come from different rules; the later one wins for its own bits only.
    apply(&[DeviceRule::DENY_ALL, rule(true, "r"), rule(true, "w")]);
    assert!(opens("<>/dev/null") && !opens("</dev/zero"));
    apply(&[DeviceRule::ALLOW_ALL, rule(false, "w")]);
    assert!(opens("</dev/null") && !opens("<>/dev/null") && opens("</dev/kmsg"));
    apply(&[]);
    assert!(!opens("</dev/null"));
    apply(&[DeviceRule::ALLOW_ALL]);
    assert!(opens("<>/dev/null") && opens("</dev/kmsg"));
}

#[test]
fn a_hundred_containers_in_a_row_leave_no_cgroup() {
    let Some(own) = Own::new() else { return };
    let limits = Resources {
        memory: Memory { limit: Some(64 << 20), swap: Some(64 << 20), ..Memory::default() },
        cpu: Cpu { shares: Some(512), quota: Some(50_000), period: Some(100_000), ..Cpu::default() },
        pids: Some(100),
        devices: Some(DeviceRule::container_defaults()),
        ..Resources::default()
    };
    for i in 0..100 {
        let path = own.parent.child(&format!("t{i}")).unwrap();
        let cgroup = own.cgroups.create(&path).unwrap();
        cgroup.apply(&limits).unwrap();
        cgroup.join().unwrap();
        let mut reader = cgroup.stats_reader().unwrap();
        for _ in 0..2 {
            assert!(reader.read(Detail::Usage).unwrap().pids.is_some());
        }
        cgroup.remove().unwrap();
        let host = &own.cgroup.host;
        assert!(host.v1.iter().chain(&host.v2).all(|hierarchy| hierarchy.dir(&path).unwrap().is_none()));
    }
}

#[test]
fn a_reader_sees_what_a_fresh_look_sees_until_the_cgroup_is_gone() {
    let Some(own) = Own::new() else { return };
    let mut reader = own.cgroup.stats_reader().unwrap();
    let before = reader.read(Detail::Usage).unwrap();
    // More sleeps than the pipeline has processes: their number says that it has ended.
    let mut child = own.run(
        "x=$(head -c 3000000 /dev/zero | tr '\\0' x); \
         sleep 1000 & sleep 1000 & sleep 1000 & sleep 1000 & sleep 1000 & wait",
    );
    let settled =
        |s: &Stats| s.memory.as_ref().unwrap().rss >= 3_000_000 && s.pids.as_ref().unwrap().current == 6;
    while !settled(&reader.read(Detail::Usage).unwrap()) {
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    let (kept, fresh) = (reader.read(Detail::Usage).unwrap(), own.cgroup.stats().unwrap());
    let without_time =
        |s: &Stats| (s.pids.clone(), s.memory.as_ref().unwrap().limit, s.swap.clone().map(|s| s.limit));
    assert_eq!(without_time(&kept), without_time(&fresh));
    assert!(fresh.cpu.unwrap().usage_ns >= kept.cpu.as_ref().unwrap().usage_ns);
    if Path::new("/proc/pressure/cpu").exists() && own.cgroup.host.v2.is_some() {
        assert!(kept.memory.as_ref().unwrap().psi.is_some());
    }
    // Read by `stats` alone, for the time that it takes.
    assert_eq!(kept.memory.as_ref().unwrap().max_usage, None);
    assert!(kept.io.as_ref().is_none_or(|io| io.devices.is_empty()));
    assert!(kept.cpu.unwrap().usage_ns > before.cpu.unwrap().usage_ns);
    own.cgroup.kill().unwrap();
    child.wait().unwrap();
    own.cgroup.remove().unwrap();
    assert!(matches!(
        reader.read(Detail::Usage),
        Err(CgroupError::Read { errno: rustix::io::Errno::NODEV, .. })
    ));
    assert!(matches!(own.cgroup.stats(), Err(CgroupError::NotFound { .. })));
}

/// The hierarchy in which exec cgroups are made.
fn exec_hierarchy(own: &Own) -> &hierarchy::Hierarchy {
    let host = &own.cgroup.host;
    host.v2.as_ref().or(host.v1.iter().find(|h| h.has("freezer"))).unwrap()
}

/// The folder of an exec cgroup.
fn exec_folder(own: &Own, number: u32) -> Option<Dir> {
    let path = own.cgroup.path().child(&format!("exec-{number}")).unwrap();
    exec_hierarchy(own).dir(&path).unwrap()
}

#[test]
fn an_exec_cgroup_ends_processes_that_left_their_session() {
    let Some(own) = Own::new() else { return };
    let exec = own.cgroup.make_exec_cgroup(0).unwrap();
    assert_eq!(exec.join().unwrap().v1_tasks.len(), own.cgroup.host.v1.len());
    let mut child = Command::new("setsid").args(["sleep", "1000"]).spawn().unwrap();
    exec_folder(&own, 0).unwrap().write("cgroup.procs", &child.id().to_string()).unwrap();
    let killer = std::thread::spawn(move || exec.kill().unwrap());
    child.wait().unwrap();
    killer.join().unwrap();
    assert!(exec_folder(&own, 0).is_none(), "a killed cgroup cannot be used again");
    own.cgroup.remove().unwrap();
}

/// As a container with a writable cgroup file system can make them.
#[test]
fn an_exec_cgroup_ends_processes_in_cgroups_below_it() {
    let Some(own) = Own::new() else { return };
    let exec = own.cgroup.make_exec_cgroup(0).unwrap();
    let folder = exec_folder(&own, 0).unwrap();
    rustix::fs::mkdirat(folder.fd(), c"below", rustix::fs::Mode::from_raw_mode(0o755)).unwrap();
    let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
    folder.child(c"below").unwrap().write("cgroup.procs", &child.id().to_string()).unwrap();
    let killer = std::thread::spawn(move || exec.kill());
    while child.try_wait().unwrap().is_none() {
        if killer.is_finished() {
            child.kill().unwrap();
        }
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    killer.join().unwrap().unwrap();
    assert!(exec_folder(&own, 0).is_none());
}

#[test]
fn an_exec_cgroup_that_the_container_removed_is_made_again() {
    let Some(own) = Own::new() else { return };
    drop(own.cgroup.make_exec_cgroup(0).unwrap());
    remove::rmdir(exec_hierarchy(&own), &own.cgroup.path().child("exec-0").unwrap()).unwrap();
    assert!(exec_folder(&own, 0).is_none());
    own.cgroup.reuse_exec_cgroup(0).unwrap().join().unwrap();
    assert!(exec_folder(&own, 0).is_some());
}

/// As after a restart of the server, with processes that a command left in cgroups that it made.
#[test]
fn an_exec_cgroup_in_use_below_is_refused_and_another_can_be_had() {
    let Some(own) = Own::new() else { return };
    drop(own.cgroup.make_exec_cgroup(0).unwrap());
    let folder = exec_folder(&own, 0).unwrap();
    rustix::fs::mkdirat(folder.fd(), c"below", rustix::fs::Mode::from_raw_mode(0o755)).unwrap();
    let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
    folder.child(c"below").unwrap().write("cgroup.procs", &child.id().to_string()).unwrap();
    assert!(matches!(own.cgroup.make_exec_cgroup(0), Err(CgroupError::Remove { .. })));
    own.cgroup.make_exec_cgroup(1).unwrap().join().unwrap();
    assert!(child.try_wait().unwrap().is_none(), "it belongs to the container");
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn the_next_exec_in_a_cgroup_does_not_have_what_the_last_one_left() {
    let Some(own) = Own::new() else { return };
    drop(own.cgroup.make_exec_cgroup(0).unwrap());
    let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
    let folder = exec_folder(&own, 0).unwrap();
    folder.write("cgroup.procs", &child.id().to_string()).unwrap();
    let again = own.cgroup.reuse_exec_cgroup(0).unwrap();
    assert_eq!(folder.read_all("cgroup.procs").unwrap().as_deref(), Some(""));
    assert!(own.cgroup.pids().unwrap().contains(&child.id().try_into().unwrap()), "it stays the container's");
    again.kill().unwrap();
    assert!(child.try_wait().unwrap().is_none(), "the next exec's end is not its end");
    assert!(exec_folder(&own, 1).is_none(), "no new cgroup for the same number");
    child.kill().unwrap();
    child.wait().unwrap();
    own.cgroup.remove().unwrap();
}

/// As a command with a writable cgroup file system leaves it.
#[test]
fn the_next_exec_does_not_get_a_cgroup_in_which_something_runs_below() {
    let Some(own) = Own::new() else { return };
    drop(own.cgroup.make_exec_cgroup(0).unwrap());
    let folder = exec_folder(&own, 0).unwrap();
    rustix::fs::mkdirat(folder.fd(), c"below", rustix::fs::Mode::from_raw_mode(0o755)).unwrap();
    rustix::fs::mkdirat(folder.fd(), c"below/empty", rustix::fs::Mode::from_raw_mode(0o755)).unwrap();
    let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
    folder.child(c"below").unwrap().write("cgroup.procs", &child.id().to_string()).unwrap();
    let again = own.cgroup.reuse_exec_cgroup(0);
    let is_refused = matches!(again, Err(CgroupError::Remove { .. }));
    if let Ok(again) = again {
        again.kill().unwrap();
    }
    let lives = child.try_wait().unwrap().is_none();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(lives, "the next exec's end is its end");
    assert!(is_refused);
    own.cgroup.reuse_exec_cgroup(0).expect("nothing runs below any more").join().unwrap();
}

#[test]
fn pods_that_come_and_go_below_one_parent_do_not_disturb_each_other() {
    let Some(own) = Own::new() else { return };
    own.cgroup.remove().unwrap();
    std::thread::scope(|scope| {
        for worker in 0..4 {
            let (cgroups, parent) = (&own.cgroups, &own.parent);
            scope.spawn(move || {
                for round in 0..25 {
                    // As without a kubelet: a parent per pod below one that all share.
                    let pod = parent.child("shared").unwrap().child(&format!("pod{worker}")).unwrap();
                    let container = cgroups.create(&pod.child(&format!("c{round}")).unwrap()).unwrap();
                    let memory = Memory { limit: Some(8 << 20), ..Memory::default() };
                    container.apply(&Resources { memory, ..Resources::default() }).unwrap();
                    assert!(!container.join().unwrap().v1_tasks.is_empty() || cgroups.mode() == Mode::V2);
                    container.remove().unwrap();
                    cgroups.remove(&pod).unwrap();
                    cgroups.remove_if_empty(&pod.parent().unwrap()).unwrap();
                }
            });
        }
    });
}

/// As a container with a writable cgroup file system can make them: deeper than a path may be long, and
/// with names that are no text.
#[test]
fn a_deep_tree_made_by_a_container_is_killed_and_removed() {
    const LEVELS: usize = 1000;
    let Some(own) = Own::new() else { return };
    let hierarchy = exec_hierarchy(&own);
    let mut here = hierarchy.dir(own.cgroup.path()).unwrap().unwrap();
    for level in 0..LEVELS {
        let name = if level % 2 == 0 { c"level" } else { c"\xff\xfe" };
        rustix::fs::mkdirat(here.fd(), name, rustix::fs::Mode::from_raw_mode(0o755)).unwrap();
        rustix::fs::mkdirat(here.fd(), c"beside", rustix::fs::Mode::from_raw_mode(0o755)).unwrap();
        here = here.child(name).unwrap();
    }
    let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
    here.write("cgroup.procs", &child.id().to_string()).unwrap();
    drop(here);
    let all = own.cgroup.pids().unwrap();
    assert_eq!(all, [i32::try_from(child.id()).unwrap()]);
    let killed = std::thread::spawn(move || child.wait().unwrap());
    own.cgroup.kill().unwrap();
    killed.join().unwrap();
    own.cgroup.remove().unwrap();
    assert!(hierarchy.dir(own.cgroup.path()).unwrap().is_none());
}

#[test]
fn what_is_below_goes_and_the_cgroup_stays() {
    let Some(own) = Own::new() else { return };
    let deep = own.cgroup.path().child("a").unwrap().child("b").unwrap();
    own.cgroups.create(&deep).unwrap();
    own.cgroups.remove_below(own.cgroup.path()).unwrap();
    assert!(own.cgroups.open(&deep.parent().unwrap()).is_err());
    assert!(own.cgroups.open(own.cgroup.path()).is_ok());
    own.cgroups.remove_below(own.cgroup.path()).unwrap();
    own.cgroups.remove_below(&deep).unwrap();
}

/// The cgroup as a host without the v2 tree would have it; None without v1.
fn v1_only(own: &Own) -> Option<Cgroup> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mounts: String =
        mounts.lines().filter(|line| !line.contains(" - cgroup2 ")).collect::<Vec<_>>().join("\n");
    let host = Host::from_mountinfo(&mounts).ok()?;
    let has_freezer = host.v1.iter().any(|hierarchy| hierarchy.has("freezer"));
    let host = Arc::new(host);
    has_freezer.then(|| Cgroups { host }.open(own.cgroup.path()).unwrap())
}

/// How far the counter in `file` comes within a while.
fn progress(file: &Path) -> u64 {
    let size = || std::fs::metadata(file).map_or(0, |file| file.len());
    let before = size();
    std::thread::sleep(std::time::Duration::from_millis(100));
    size() - before
}

#[test]
fn paused_processes_stand_still_go_on_and_can_be_killed() {
    let Some(own) = Own::new() else { return };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("count");
    for freezer in [Some(own.cgroup.clone()), v1_only(&own)] {
        let Some(freezer) = freezer else { continue };
        std::fs::write(&file, "").unwrap();
        // Bounded: a line each 5 ms.
        let script = format!("while :; do echo >> {}; sleep 0.005; done", file.display());
        let mut child = own.run(&script);
        while progress(&file) == 0 {}
        for _ in 0..3 {
            freezer.freeze().unwrap();
            assert!(freezer.is_frozen().unwrap());
            assert_eq!(progress(&file), 0, "paused");
            freezer.thaw().unwrap();
            while progress(&file) == 0 {}
            assert!(!freezer.is_frozen().unwrap());
        }
        freezer.freeze().unwrap();
        // Also where another program has paused it by the other freezer.
        own.cgroup.kill().unwrap();
        child.wait().unwrap();
        freezer.thaw().unwrap();
    }
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
