//! Monitors are copies of a fork server, and have nothing of it.

use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use crisp_executor::cgroup::JoinFds;
use crisp_executor::ids::PodId;
use crisp_monitor::fork_server::UNNAMED;
use crisp_sandbox::spawn::{MonitorBinary, begin};
use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::harness::{Pod, gone, missing, request, until};
use crate::plans::sh;

fn binary() -> MonitorBinary {
    MonitorBinary::new(&std::fs::read(crate::harness::monitor()).unwrap()).unwrap()
}

fn arguments(pid: i32) -> Vec<String> {
    let bytes = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    bytes.split(|byte| *byte == 0).map(|text| String::from_utf8_lossy(text).into_owned()).collect()
}

/// The fork server that made this monitor: it runs the same file.
fn fork_server_of(monitor: i32) -> Option<i32> {
    let program = |pid: i32| std::fs::metadata(format!("/proc/{pid}/exe")).ok().map(|file| file.ino());
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let mut pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.find(|pid| {
        arguments(*pid).get(1).is_some_and(|name| name == UNNAMED) && program(*pid) == program(monitor)
    })
}

#[tokio::test]
async fn a_monitor_has_its_own_name_parent_and_descriptors() {
    if missing() {
        return;
    }
    let binary = binary();
    let pods = [Pod::fresh_of(&binary).await, Pod::fresh_of(&binary).await];
    let server = fork_server_of(pods[0].pid).unwrap();
    assert_eq!(fork_server_of(pods[1].pid), Some(server));
    for pod in &pods {
        assert_eq!(arguments(pod.pid)[..2], ["crisp-pod", pod.link.greeting().pod.as_str()]);
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", pod.pid)).unwrap();
        let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
        assert_eq!(fields[1], std::process::id().to_string(), "its parent");
        assert_eq!(fields[3], pod.pid.to_string(), "it leads a session");
        let link = |n: &str| std::fs::read_link(format!("/proc/{}/fd/{n}", pod.pid)).unwrap();
        assert_eq!([link("0"), link("1")], [PathBuf::from("/dev/null"), PathBuf::from("/dev/null")]);
        assert_eq!(link("2"), pod.folder.path().join("monitor.log"));
        let sockets = std::fs::read_dir(format!("/proc/{}/fd", pod.pid)).unwrap().flatten();
        let sockets = sockets.filter_map(|entry| std::fs::read_link(entry.path()).ok());
        let sockets = sockets.filter(|link| link.to_string_lossy().starts_with("socket:")).count();
        assert_eq!(sockets, 2, "where it listens, and this test's connection");
        let score = std::fs::read_to_string(format!("/proc/{}/oom_score_adj", pod.pid)).unwrap();
        let of_server = std::fs::read_to_string(format!("/proc/{server}/oom_score_adj")).unwrap();
        assert_eq!(score, of_server);
    }
    // The last descriptors of the first are the second's to have, if it got any: it must outlive it.
    let [first, second] = pods;
    first.link.open_pod(request(first.folder.path())).await.unwrap();
    first.shutdown().await;
    second.link.open_pod(request(second.folder.path())).await.unwrap();
    assert_eq!(second.run("exit 3").await.1.status.code(), 3);
    second.shutdown().await;
}

#[tokio::test]
async fn monitors_outlive_the_fork_server_and_it_its_own_death() {
    if missing() {
        return;
    }
    let binary = binary();
    let first = Pod::fresh_of(&binary).await;
    let server = fork_server_of(first.pid).unwrap();
    kill_process(Pid::from_raw(server).unwrap(), Signal::KILL).unwrap();
    let second = Pod::fresh_in(&binary, &mut JoinFds::default()).await;
    let again = fork_server_of(second.pid).unwrap();
    assert_ne!(again, server);
    gone(server).await;
    drop(binary);
    gone(again).await;
    for pod in [first, second] {
        pod.link.open_pod(request(pod.folder.path())).await.unwrap();
        pod.start(&sh("sleep 1000")).await.unwrap();
        pod.shutdown().await;
    }
}

/// The processes with this pod's id as an argument: its monitors, and a fork server that makes one.
fn monitors_of(pod: &PodId) -> Vec<i32> {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| arguments(*pid).get(1).is_some_and(|name| *name == pod.as_str())).collect()
}

fn send(signal: Signal, pid: i32) {
    kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
}

#[tokio::test]
async fn a_monitor_that_was_requested_and_is_not_wanted_any_more_is_ended() {
    if missing() {
        return;
    }
    let binary = binary();
    let first = Pod::fresh_of(&binary).await;
    let server = fork_server_of(first.pid).unwrap();
    let folder = tempfile::tempdir().unwrap();
    for _ in 0..20 {
        let id = PodId::random();
        drop(begin(&binary, &id, folder.path(), &JoinFds::default(), false).unwrap());
        assert!(monitors_of(&id).is_empty());
    }
    // It is not the one that had to be ended.
    let second = Pod::fresh_of(&binary).await;
    assert_eq!(fork_server_of(second.pid), Some(server));
    first.shutdown().await;
    second.shutdown().await;
}

#[tokio::test]
async fn a_fork_server_that_is_killed_before_it_answers_leaves_no_second_monitor() {
    if missing() {
        return;
    }
    let binary = binary();
    let mut last = Pod::fresh_of(&binary).await;
    let folder = tempfile::tempdir().unwrap();
    // Before it has received the request, and somewhere after that.
    for is_stopped in [true, false, false, false] {
        let server = fork_server_of(last.pid).unwrap();
        last.shutdown().await;
        if is_stopped {
            send(Signal::STOP, server);
        }
        let (id, mut cgroup) = (PodId::random(), JoinFds::default());
        let spawning = begin(&binary, &id, folder.path(), &cgroup, false).unwrap();
        send(Signal::KILL, server);
        let (pid, reaper) = spawning.finish(&mut cgroup).unwrap();
        assert_eq!(monitors_of(&id), [pid]);
        drop(reaper);
        send(Signal::KILL, pid);
        gone(pid).await;
        last = Pod::fresh_of(&binary).await;
        // The next request has found it dead.
        gone(server).await;
    }
    // Given up as well: a stopped one that is killed has made nothing.
    let server = fork_server_of(last.pid).unwrap();
    send(Signal::STOP, server);
    let id = PodId::random();
    let spawning = begin(&binary, &id, folder.path(), &JoinFds::default(), false).unwrap();
    send(Signal::KILL, server);
    drop(spawning);
    gone(server).await;
    assert!(monitors_of(&id).is_empty());
    last.shutdown().await;
}

fn network(pid: i32) -> PathBuf {
    std::fs::read_link(format!("/proc/{pid}/ns/net")).unwrap()
}

/// The network namespaces that a process has open.
fn open_networks(pid: i32) -> Vec<PathBuf> {
    let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
    let links = descriptors.filter_map(|entry| std::fs::read_link(entry.path()).ok());
    links.filter(|link| link.to_string_lossy().starts_with("net:[")).collect()
}

#[tokio::test]
async fn a_pod_gets_the_network_that_is_ready_and_no_two_pods_the_same() {
    if missing() {
        return;
    }
    let binary = binary();
    let host = network(std::process::id() as i32);
    let mut pods = vec![Pod::fresh_of(&binary).await];
    let server = fork_server_of(pods[0].pid).unwrap();
    let mut networks = vec![host.clone()];
    for has_network in [true, false, true, true, false] {
        // While it makes one, it has that of the host open.
        let is_ready = || matches!(&open_networks(server)[..], [network] if *network != host);
        until("a network that is ready", is_ready).await;
        let ready = open_networks(server).remove(0);
        let pod = Pod::fresh_with(&binary, &mut JoinFds::default(), has_network).await;
        let mut wanted = request(pod.folder.path());
        wanted.network = has_network;
        if !has_network {
            wanted.hostname = None;
        }
        pod.link.open_pod(wanted).await.unwrap();
        let own = network(pod.pid);
        if has_network {
            assert!(own == ready && !networks.contains(&own), "{own:?} of {networks:?}");
            networks.push(own.clone());
            // The copy that it sends is open for a moment.
            until("the network once", || open_networks(pod.pid) == [own.clone()]).await;
        } else {
            assert_eq!(
                (own, open_networks(pod.pid), open_networks(server)),
                (host.clone(), vec![], vec![ready])
            );
        }
        assert_eq!(network(server), host);
        pods.push(pod);
    }
    for pod in pods {
        pod.shutdown().await;
    }
}

/// A setting in the network namespace of a process.
fn setting(pid: &str, path: &'static str) -> String {
    let namespace = std::fs::File::open(format!("/proc/{pid}/ns/net")).unwrap();
    let read = move || {
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
        std::fs::read_to_string(path).unwrap()
    };
    std::thread::spawn(read).join().unwrap()
}

#[tokio::test]
async fn a_pod_has_the_hosts_present_network_settings() {
    if missing() {
        return;
    }
    // No existing interface reads it.
    const SHARED: &str = "/proc/sys/net/ipv4/conf/default/shared_media";
    let binary = binary();
    let first = Pod::fresh_of(&binary).await;
    let server = fork_server_of(first.pid).unwrap();
    first.link.open_pod(request(first.folder.path())).await.unwrap();
    until("a network that is ready", || open_networks(server).len() == 1).await;
    let before = setting("self", SHARED);
    std::fs::write(SHARED, if before.trim() == "1" { "0" } else { "1" }).unwrap();
    // New namespaces have the settings of the first one, which may not be that of this test.
    let fresh = std::process::Command::new("unshare").args(["--net", "cat", SHARED]).output().unwrap().stdout;
    tokio::time::sleep(std::time::Duration::from_millis(2100)).await;
    let second = Pod::fresh_of(&binary).await;
    let opened = second.link.open_pod(request(second.folder.path())).await;
    std::fs::write(SHARED, before).unwrap();
    opened.unwrap();
    assert_eq!(setting(&second.pid.to_string(), SHARED), String::from_utf8(fresh).unwrap());
    first.shutdown().await;
    second.shutdown().await;
}

#[tokio::test]
async fn a_program_that_cannot_be_a_fork_server_is_run() {
    if missing() {
        return;
    }
    // As of an earlier release: it takes the name in the place of an id for a mistake.
    let program = std::fs::read(crate::harness::monitor()).unwrap();
    let name = UNNAMED.as_bytes();
    let at: Vec<usize> =
        (0..program.len() - name.len()).filter(|at| program[*at..].starts_with(name)).collect();
    assert!(!at.is_empty());
    let mut older = program;
    for at in at {
        older[at..at + name.len()].fill(b'+');
    }
    let binary = MonitorBinary::new(&older).unwrap();
    let pod = Pod::fresh_of(&binary).await;
    assert_eq!(arguments(pod.pid)[1], pod.link.greeting().pod.as_str());
    assert_eq!(fork_server_of(pod.pid), None);
    pod.link.open_pod(request(pod.folder.path())).await.unwrap();
    pod.shutdown().await;
}
