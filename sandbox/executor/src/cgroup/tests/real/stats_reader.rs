//! Reading stats, once and repeatedly.

use super::*;

#[test]
fn a_reader_sees_what_a_fresh_look_sees_until_the_cgroup_is_gone() {
    let Some(own) = Own::new() else { return };
    let mut reader = own.cgroup.stats_reader().unwrap();
    let before = reader.read(Detail::USAGE).unwrap();
    // More sleeps than the pipeline has processes: their number says that it has ended.
    let mut child = own.run(
        "x=$(head -c 3000000 /dev/zero | tr '\\0' x); \
         sleep 1000 & sleep 1000 & sleep 1000 & sleep 1000 & sleep 1000 & wait",
    );
    let settled =
        |s: &Stats| s.memory.as_ref().unwrap().rss >= 3_000_000 && s.pids.as_ref().unwrap().current == 6;
    while !settled(&reader.read(Detail::USAGE).unwrap()) {
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    let (kept, fresh) = (reader.read(Detail::USAGE).unwrap(), own.cgroup.stats().unwrap());
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
        reader.read(Detail::USAGE),
        Err(CgroupError::Read { errno: rustix::io::Errno::NODEV, .. })
    ));
    assert!(matches!(own.cgroup.stats(), Err(CgroupError::NotFound { .. })));
}

#[test]
fn a_reader_lists_the_processes_of_now_and_those_below() {
    let Some(own) = Own::new() else { return };
    let reader = own.cgroup.stats_reader().unwrap();
    assert_eq!(reader.pids().unwrap(), [] as [i32; 0]);
    let mut child = own.run("exec sleep 1000");
    // Within the second for which v1 keeps a list.
    for _ in 0..3 {
        assert_eq!(reader.pids().unwrap(), own.cgroup.pids().unwrap());
    }
    assert_eq!(reader.pids().unwrap(), [child.id().cast_signed()]);
    let host = &own.cgroup.host;
    let below = own.cgroup.path().child("below").unwrap();
    match &host.v2 {
        // v2 lets no process into a cgroup with controllers below one with processes.
        Some(v2) if host.v1.is_empty() => std::fs::create_dir(v2.dir_path(&below)).unwrap(),
        _ => drop(own.cgroup.child("below").unwrap()),
    }
    for hierarchy in host.v1.iter().chain(&host.v2) {
        std::fs::write(hierarchy.dir_path(&below).join("cgroup.procs"), child.id().to_string()).unwrap();
    }
    assert_eq!(reader.pids().unwrap(), [child.id().cast_signed()], "in a cgroup below");
    own.cgroup.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(reader.pids().unwrap(), [] as [i32; 0]);
}

#[test]
fn folders_count_their_children_in_links() {
    let Some(own) = Own::new() else { return };
    let names = |dir: &dir::Dir| dir.children().unwrap();
    for hierarchy in own.cgroup.host.v1.iter().chain(&own.cgroup.host.v2) {
        let dir = hierarchy.dir(own.cgroup.path()).unwrap().unwrap();
        let links = || rustix::fs::fstat(dir.fd()).unwrap().st_nlink;
        assert_eq!((links(), names(&dir).len()), (2, 0));
        let below = hierarchy.dir_path(own.cgroup.path()).join("below");
        std::fs::create_dir(&below).unwrap();
        assert_eq!((links(), names(&dir)), (3, vec![c"below".to_owned()]));
        std::fs::remove_dir(below).unwrap();
        assert_eq!((links(), names(&dir).len()), (2, 0));
    }
}

#[test]
fn new_limits_are_read_once_they_are_expected() {
    let Some(own) = Own::new() else { return };
    let mut reader = own.cgroup.stats_reader().unwrap();
    let known = Detail { cached_limits: true, ..Detail::ALL };
    let limits = |stats: Stats| {
        let memory = stats.memory.unwrap();
        (memory.limit, stats.swap.and_then(|swap| swap.limit), stats.pids.unwrap().limit)
    };
    let set = |memory: i64, swap: i64, pids| {
        let memory = Memory { limit: Some(memory), swap: Some(swap), ..Memory::default() };
        own.cgroup.apply(&Resources { memory, pids: Some(pids), ..Resources::default() }).unwrap();
    };
    assert_eq!(limits(reader.read(known).unwrap()), (None, None, None));
    for megabytes in [64, 32, 96] {
        let bytes = megabytes << 20;
        set(bytes, bytes + (8 << 20), megabytes);
        let all = limits(own.cgroup.stats().unwrap());
        assert_eq!((all.0, all.2), (Some(bytes.unsigned_abs()), Some(megabytes.unsigned_abs())));
        // Without known limits nothing needs to be expected.
        assert_eq!(limits(reader.read(Detail::ALL).unwrap()), all);
        assert_eq!(limits(reader.read(known).unwrap()), all);
    }
    set(-1, -1, 5);
    reader.forget_limits();
    assert_eq!(limits(reader.read(known).unwrap()), (None, None, Some(5)));
    assert_eq!(limits(reader.read(known).unwrap()), limits(own.cgroup.stats().unwrap()));
}
