//! Making, killing and removing cgroups.

use super::*;

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
fn a_hundred_containers_in_a_row_leave_no_cgroup() {
    let Some(own) = Own::new() else { return };
    let limits = Resources {
        memory: Memory { limit: Some(64 << 20), swap: Some(64 << 20), ..Memory::default() },
        cpu: Cpu { shares: Some(512), quota: Some(50_000), period: Some(100_000), ..Cpu::default() },
        pids: Some(100),
        devices: Some(harmless_devices()),
        ..Resources::default()
    };
    for i in 0..100 {
        let path = own.parent.child(&format!("t{i}")).unwrap();
        let cgroup = own.cgroups.create(&path).unwrap();
        cgroup.apply(&limits).unwrap();
        cgroup.join().unwrap();
        let mut reader = cgroup.stats_reader().unwrap();
        for _ in 0..2 {
            assert!(reader.read(Detail::USAGE).unwrap().pids.is_some());
        }
        cgroup.remove().unwrap();
        let host = &own.cgroup.host;
        assert!(host.v1.iter().chain(&host.v2).all(|hierarchy| hierarchy.dir(&path).unwrap().is_none()));
    }
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
