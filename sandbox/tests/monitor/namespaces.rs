//! The namespaces that a pod's containers share, and those that they do not share with the host.

use crisp_executor::plan::PidNamespace;
use crisp_monitor::wire::Failure;
use crisp_sandbox::link::LinkError;

use crate::harness::{Pod, missing, request};
use crate::plans::sh;

fn own(name: &str) -> String {
    std::fs::read_link(format!("/proc/self/ns/{name}")).unwrap().to_str().unwrap().to_owned()
}

#[tokio::test]
async fn containers_share_what_is_the_pods() {
    if missing() {
        return;
    }
    let pod = Pod::open().await;
    let script = "for n in net ipc uts pid mnt; do busybox readlink /proc/self/ns/$n; done; busybox hostname";
    let (a, _) = pod.run(script).await;
    let (b, _) = pod.run(script).await;
    let (a, b) = (pod.output(&a, "stdout"), pod.output(&b, "stdout"));
    let (a, b): (Vec<_>, Vec<_>) = (a.lines().collect(), b.lines().collect());
    assert_eq!(a[..3], b[..3]);
    assert_eq!((a[5], b[5]), ("web-0", "web-0"));
    for (n, name) in ["net", "ipc", "uts", "pid", "mnt"].into_iter().enumerate() {
        assert_ne!(a[n], own(name), "{name} is the host's");
    }
    let (write, _) = pod.run("echo shared > /dev/shm/x; busybox df /dev/shm | busybox tail -n 1").await;
    let (read, _) = pod.run("busybox cat /dev/shm/x").await;
    assert_eq!(pod.output(&read, "stdout"), "shared\n");
    assert!(pod.output(&write, "stdout").contains("1024"), "{}", pod.output(&write, "stdout"));
    pod.shutdown().await;
}

#[tokio::test]
async fn a_pod_on_the_host_has_the_hosts() {
    if missing() {
        return;
    }
    let (pod, opened) = Pod::open_with(|request| {
        request.hostname = None;
        request.network = false;
        request.ipc = false;
    })
    .await;
    assert!(opened.network.is_none());
    let no = pod.link.network().await.unwrap_err();
    assert_eq!(no.failure(), Some(&Failure::NoNetwork));
    let mut plan = sh("for n in net ipc uts pid; do busybox readlink /proc/self/ns/$n; done");
    plan.pid = PidNamespace::Host;
    let (id, _) = pod.run_plan(&plan).await;
    let expected: Vec<String> = ["net", "ipc", "uts", "pid"].map(own).to_vec();
    assert_eq!(pod.output(&id, "stdout").lines().collect::<Vec<_>>(), expected);
    pod.shutdown().await;
}

#[tokio::test]
async fn orphans_in_the_hosts_pid_namespace_are_reaped() {
    if missing() {
        return;
    }
    let pod = Pod::open().await;
    let mut plan = sh("(busybox sleep 0.2 & echo $!); busybox sleep 0.5; exit 0");
    plan.pid = PidNamespace::Host;
    let (id, _) = pod.run_plan(&plan).await;
    let orphan: i32 = pod.output(&id, "stdout").trim().parse().unwrap();
    crate::harness::gone(orphan).await;
    pod.shutdown().await;
}

#[tokio::test]
async fn sysctls_are_the_pods_own() {
    if missing() {
        return;
    }
    let host = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap();
    let (pod, _) = Pod::open_with(|request| {
        let set = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        request.sysctls =
            vec![set("net.ipv4.ip_unprivileged_port_start", "77"), set("kernel/shm_rmid_forced", "1")];
    })
    .await;
    let files = "/proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/shm_rmid_forced";
    let (id, _) = pod.run(&format!("busybox cat {files}")).await;
    assert_eq!(pod.output(&id, "stdout"), "77\n1\n");
    let after = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap();
    assert_eq!(after, host);
    pod.shutdown().await;
}

#[tokio::test]
async fn a_wrong_sysctl_is_named() {
    if missing() {
        return;
    }
    for (name, value, reason) in [
        ("net.ipv4.no_such_thing", "1", "no such setting"),
        ("net.ipv4.ip_unprivileged_port_start", "many", "does not take the value \"many\""),
        ("net/../../x", "1", "not the name"),
        ("net.ipv4.ip_forward", "1\n", "line break"),
    ] {
        let pod = Pod::fresh().await;
        let mut request = request(pod.folder.path());
        request.sysctls = vec![(name.into(), value.into())];
        let error = pod.link.open_pod(request).await.unwrap_err();
        assert!(error.to_string().contains(reason) && error.to_string().contains(name), "{error}");
        pod.shutdown().await;
    }
}

#[tokio::test]
async fn a_pod_opens_once() {
    if missing() {
        return;
    }
    let pod = Pod::fresh().await;
    let early = pod.start(&sh("exit 0")).await.unwrap_err();
    assert_eq!(early.failure(), Some(&Failure::NotOpen));
    pod.link.open_pod(request(pod.folder.path())).await.unwrap();
    let twice = pod.link.open_pod(request(pod.folder.path())).await;
    assert!(matches!(twice, Err(LinkError::Refused { failure: Failure::AlreadyOpen, .. })), "{twice:?}");
    pod.shutdown().await;
}

#[tokio::test]
async fn the_netlink_socket_is_of_the_pods_network() {
    if missing() {
        return;
    }
    let (pod, opened) = Pod::open_with(|_| {}).await;
    let network = opened.network.unwrap();
    let inside = rustix::fs::fstat(&network.netns).unwrap().st_ino;
    let of_monitor = rustix::fs::stat(format!("/proc/{}/ns/net", pod.pid)).unwrap().st_ino;
    assert_eq!(inside, of_monitor);
    assert_eq!(
        rustix::net::sockopt::socket_domain(&network.netlink),
        Ok(rustix::net::AddressFamily::NETLINK)
    );
    pod.shutdown().await;
}
