//! Cgroups for exec: killing their processes, and using them again.

use super::*;
use crate::cgroup::ExecCgroup;
use crate::cgroup::dir::Dir;

/// The folder of an exec cgroup.
fn exec_folder(own: &Own, number: u32) -> Option<Dir> {
    let path = own.cgroup.path().child(&format!("exec-{number}")).unwrap();
    exec_hierarchy(own).dir(&path).unwrap()
}

/// Waits for the end of a child that another thread kills; ends it itself, and fails, when that has given up.
fn wait_or_kill(child: &mut Child, has_given_up: impl Fn() -> bool) {
    // Asked before the child's end is looked for, which comes before the end of the other thread.
    loop {
        let late = has_given_up();
        if child.try_wait().unwrap().is_some() {
            return;
        }
        if late {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!("it was not killed");
        }
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
}

fn kill(exec: ExecCgroup) {
    exec.kill().unwrap().expect("it is there").remove().unwrap();
}

#[test]
fn an_exec_cgroup_ends_processes_that_left_their_session() {
    let Some(own) = Own::new() else { return };
    let exec = own.cgroup.make_exec_cgroup(0).unwrap();
    assert_eq!(exec.join().unwrap().v1_tasks.len(), own.cgroup.host.v1.len());
    let mut child = Command::new("setsid").args(["sleep", "1000"]).spawn().unwrap();
    exec_folder(&own, 0).unwrap().write("cgroup.procs", &child.id().to_string()).unwrap();
    let killer = std::thread::spawn(move || kill(exec));
    wait_or_kill(&mut child, || killer.is_finished());
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
    let killer = std::thread::spawn(move || kill(exec));
    wait_or_kill(&mut child, || killer.is_finished());
    killer.join().unwrap();
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
    kill(again);
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
        kill(again);
    }
    let lives = child.try_wait().unwrap().is_none();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(lives, "the next exec's end is its end");
    assert!(is_refused);
    own.cgroup.reuse_exec_cgroup(0).expect("nothing runs below any more").join().unwrap();
}

/// As when a container starts again before the processes of an earlier command are gone.
#[test]
fn a_killed_exec_cgroup_leaves_a_newer_one_of_its_name_alone() {
    let Some(own) = Own::new() else { return };
    let old = own.cgroup.make_exec_cgroup(0).unwrap().kill().unwrap().unwrap();
    remove::rmdir(exec_hierarchy(&own), &own.cgroup.path().child("exec-0").unwrap()).unwrap();
    let newer = own.cgroup.make_exec_cgroup(0).unwrap();
    let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
    exec_folder(&own, 0).unwrap().write("cgroup.procs", &child.id().to_string()).unwrap();
    old.remove().unwrap();
    std::thread::sleep(std::time::Duration::from_millis(20));
    let lives = child.try_wait().unwrap().is_none();
    let killed = newer.kill().unwrap().unwrap();
    child.wait().unwrap();
    assert!(lives, "the next exec's end is its end");
    killed.remove().unwrap();
    let newer = own.cgroup.make_exec_cgroup(0).unwrap().kill().unwrap().unwrap();
    own.cgroup.remove().unwrap();
    newer.remove().unwrap();
}

/// A server that ends at once after it must leave no process alive.
#[test]
fn an_exec_cgroup_is_killed_before_it_is_waited_for() {
    let Some(own) = Own::new() else { return };
    drop(own.cgroup.make_exec_cgroup(0).unwrap());
    let open = || own.cgroups.open_exec_cgroup(own.cgroup.path(), 0).unwrap().unwrap();
    let kept = open();
    let mut child = Command::new("setsid").args(["sleep", "1000"]).spawn().unwrap();
    assert!(!kept.is_populated().unwrap());
    let folder = exec_folder(&own, 0).unwrap();
    rustix::fs::mkdirat(folder.fd(), c"below", rustix::fs::Mode::from_raw_mode(0o755)).unwrap();
    folder.child(c"below").unwrap().write("cgroup.procs", &child.id().to_string()).unwrap();
    // The open file must show the change.
    assert!(kept.is_populated().unwrap());
    let (never_read, killed) = (open(), open().kill());
    let begun = std::time::Instant::now();
    wait_or_kill(&mut child, || begun.elapsed() > std::time::Duration::from_secs(20));
    killed.remove().unwrap();
    assert!(exec_folder(&own, 0).is_none());
    for removed in [&kept, &never_read] {
        assert!(!removed.is_populated().unwrap());
    }
    own.cgroup.remove().unwrap();
}
