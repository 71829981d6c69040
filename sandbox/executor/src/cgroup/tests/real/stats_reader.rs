//! Reading stats, once and repeatedly.

use super::*;

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
