//! Sockets of host ports that a monitor keeps.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::OwnedFd;

use crisp_monitor::wire::ExitStatus;
use crisp_sandbox::link::ExecRequest;
use rustix::net::getsockname;
use rustix::process::{Pid, Signal, kill_process};

use crate::harness::{Pod, gone, missing, request, until};
use crate::plans::{exec_request, process, sh};

/// `address`, in 127.0.7.0/24, is of one test alone: ports that it gives back must not become those of another one.
fn sockets(count: usize, address: u8) -> (Vec<OwnedFd>, Vec<SocketAddr>) {
    let listeners: Vec<TcpListener> =
        (0..count).map(|_| TcpListener::bind((Ipv4Addr::new(127, 0, 7, address), 0)).unwrap()).collect();
    let addresses = listeners.iter().map(|listener| listener.local_addr().unwrap()).collect();
    (listeners.into_iter().map(OwnedFd::from).collect(), addresses)
}

fn are_free(addresses: &[SocketAddr]) -> bool {
    let free = addresses.iter().filter(|address| TcpListener::bind(address).is_ok()).count();
    assert!(free == 0 || free == addresses.len(), "{free} of {} are free", addresses.len());
    free > 0
}

/// How many sockets a process has open.
fn sockets_of(pid: i32) -> usize {
    let open = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
    open.filter_map(|entry| std::fs::read_link(entry.path()).ok())
        .filter(|target| target.to_string_lossy().starts_with("socket:"))
        .count()
}

#[tokio::test]
async fn ports_are_held_until_the_monitor_ends_and_nothing_in_the_pod_gets_them() {
    if missing() {
        return;
    }
    // Repeated: a copy that is closed late shows only sometimes.
    for _ in 0..5 {
        let (of_open, mut addresses) = sockets(3, 1);
        let (pod, opened) = Pod::open_with(|request| {
            request.shared_pid = true;
            request.host_ports = of_open;
        })
        .await;
        let (more, their_addresses) = sockets(150, 1);
        pod.link.hold_ports(more).await.unwrap();
        addresses.extend(their_addresses);
        assert!(!are_free(&addresses));
        until("the pod's init without sockets", || sockets_of(opened.init.unwrap()) == 0).await;
        let (stays, started) = pod.start(&sh("while :; do busybox sleep 1000; done")).await.unwrap();
        assert_eq!(sockets_of(started.pid), 0);
        let exec = ExecRequest {
            stdout: Some(pod.log_file(&stays)),
            ..exec_request(1, &stays, process(&["/bin/busybox", "ls", "-l", "/proc/self/fd"]))
        };
        pod.link.exec(exec).await.unwrap();
        assert_eq!(pod.link.wait_exec(1).await.unwrap(), ExitStatus::Code(0));
        let listed = pod.log(&stays);
        assert!(listed.contains("/proc/self/fd") || listed.contains("->"), "{listed}");
        assert!(!listed.contains("socket:"), "{listed}");
        let pid = pod.pid;
        pod.link.shutdown(true).await.unwrap();
        assert!(are_free(&addresses), "after the response");
        gone(pid).await;
    }
}

#[tokio::test]
async fn a_restarted_server_gets_copies_of_all() {
    if missing() {
        return;
    }
    let (held, mut addresses) = sockets(100, 2);
    let (pod, _) = Pod::open_with(|request| request.host_ports = held).await;
    let before = sockets_of(pod.pid);
    let restarted = pod.connect().await;
    let copies = restarted.copy_ports().await.unwrap();
    let mut copied: Vec<SocketAddr> =
        copies.iter().map(|socket| getsockname(socket).unwrap().try_into().unwrap()).collect();
    addresses.sort();
    copied.sort();
    assert_eq!(copied, addresses);
    drop(restarted);
    until("the monitor without copies", || sockets_of(pod.pid) == before).await;
    pod.shutdown().await;
    assert!(!are_free(&addresses));
    drop(copies);
    assert!(are_free(&addresses));
    let without = Pod::open().await;
    assert!(without.link.copy_ports().await.unwrap().is_empty());
    without.shutdown().await;
}

#[tokio::test]
async fn a_monitor_that_is_killed_or_cannot_open_its_pod_holds_nothing() {
    if missing() {
        return;
    }
    let (held, addresses) = sockets(2, 3);
    let (pod, _) = Pod::open_with(|request| request.host_ports = held).await;
    assert!(!are_free(&addresses));
    kill_process(Pid::from_raw(pod.pid).unwrap(), Signal::KILL).unwrap();
    gone(pod.pid).await;
    assert!(are_free(&addresses));
    let (held, addresses) = sockets(2, 3);
    let pod = Pod::fresh().await;
    let mut failing = request(pod.folder.path());
    failing.sysctls = vec![("net/no/such/setting".into(), "1".into())];
    failing.host_ports = held;
    pod.link.open_pod(failing).await.unwrap_err();
    assert!(are_free(&addresses));
    let (more, _) = sockets(1, 3);
    pod.link.hold_ports(more).await.unwrap_err();
    pod.shutdown().await;
}
