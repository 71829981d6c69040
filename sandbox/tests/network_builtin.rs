//! The built-in network on a private host: real bridge, veths and packet rules.

mod support;

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use crisp_executor::id::PodId;
use crisp_sandbox::network::{NetworkConfig, Networks, PortMapping, Protocol};
use support::{Namespace, block_on, config, on_private_host, port, sh, traces};

const SECOND: Duration = Duration::from_secs(1);

/// Listens inside and answers every connection with the address it came from.
fn tell_callers_who_they_are(namespace: &Namespace, port: u16) {
    namespace.run(move || {
        let listener = TcpListener::bind(("0.0.0.0", port)).unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let peer = stream.peer_addr().unwrap().ip().to_string();
                let _ = stream.write_all(peer.as_bytes());
            }
        });
    });
}

/// Asks from inside the namespace.
fn ask_from(namespace: &Namespace, address: &str) -> Result<String, String> {
    let address = address.to_owned();
    namespace.run(move || ask(&address))
}

fn ask(address: &str) -> Result<String, String> {
    let address: SocketAddr = address.parse().unwrap();
    let mut stream = TcpStream::connect_timeout(&address, SECOND).map_err(|e| e.to_string())?;
    stream.set_read_timeout(Some(SECOND)).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).map_err(|e| e.to_string())?;
    Ok(text)
}

/// Another machine, reached by the host's interface up0 (192.0.2.1 and .2).
fn outside() -> Namespace {
    let outside = Namespace::new();
    let fd = std::os::fd::AsRawFd::as_raw_fd(&*outside.netns);
    sh(&format!(
        "ip link add up0 type veth peer name up1 && ip link set up1 netns /proc/{}/fd/{fd} &&
         ip addr add 192.0.2.1/24 dev up0 && ip link set up0 up && ip route add default via 192.0.2.2",
        std::process::id()
    ));
    outside.sh("ip link set lo up; ip addr add 192.0.2.2/24 dev up1; ip link set up1 up");
    outside
}

fn ip(attachment: &crisp_sandbox::network::Attachment) -> String {
    attachment.ips[0].to_string()
}

#[test]
fn pods_reach_each_other_the_host_and_the_outside() {
    on_private_host("pods_reach_each_other_the_host_and_the_outside", || {
        let dir = tempfile::tempdir().unwrap();
        let outside = outside();
        tell_callers_who_they_are(&outside, 80);
        let networks = Networks::open(&config(dir.path())).unwrap();
        let (a, b) = (Namespace::new(), Namespace::new());
        block_on(async {
            let on_a = a.attach(&networks, &[]).await.unwrap();
            let on_b = b.attach(&networks, &[]).await.unwrap();
            assert_eq!((ip(&on_a), ip(&on_b)), ("10.88.0.2".into(), "10.88.0.3".into()));
            tell_callers_who_they_are(&b, 8080);
            assert_eq!(ask_from(&a, "10.88.0.3:8080").unwrap(), "10.88.0.2");
            assert_eq!(ask("10.88.0.3:8080").unwrap(), "10.88.0.1");
            // The outside has no route to pods: only a masqueraded packet gets its answer.
            assert_eq!(ask_from(&a, "192.0.2.2:80").unwrap(), "192.0.2.1");
            assert_eq!(b.sh("cat /proc/net/dev | grep -c lo:").trim(), "1");
            let counters = a.netlink.interface_counters("eth0").unwrap().unwrap();
            assert!(counters.rx_bytes > 100 && counters.tx_packets > 4, "{counters:?}");
            assert_eq!(a.netlink.interface_counters("eth7").unwrap(), None);
            assert_eq!(a.netlink.all_counters().unwrap()[0].0, "eth0");
            assert_eq!(sh("cat /proc/sys/net/ipv4/ip_forward").trim(), "1");
            let status = networks.status();
            assert!(status.ready, "{status:?}");
            assert_eq!(status.message, "built-in network on bridge crisp0, addresses from 10.88.0.0/16");
        });
    });
}

#[test]
fn host_ports_lead_to_the_pod_from_everywhere() {
    on_private_host("host_ports_lead_to_the_pod_from_everywhere", || {
        let dir = tempfile::tempdir().unwrap();
        let outside = outside();
        let networks = Networks::open(&config(dir.path())).unwrap();
        let (a, b) = (Namespace::new(), Namespace::new());
        block_on(async {
            let on_one =
                PortMapping { host_ip: Some("192.0.2.1".parse().unwrap()), ..port(Protocol::Tcp, 81, 80) };
            a.attach(&networks, &[port(Protocol::Tcp, 8080, 80), port(Protocol::Udp, 53, 53), on_one])
                .await
                .unwrap();
            b.attach(&networks, &[]).await.unwrap();
            tell_callers_who_they_are(&a, 80);
            let from_host = |address: &str| ask(address);
            assert_eq!(from_host("127.0.0.1:8080").unwrap(), "10.88.0.1");
            assert_eq!(from_host("127.0.0.9:8080").unwrap(), "10.88.0.1");
            assert_eq!(from_host("192.0.2.1:8080").unwrap(), "192.0.2.1");
            // The caller's address is kept where the answer finds its way.
            assert_eq!(ask_from(&outside, "192.0.2.1:8080").unwrap(), "192.0.2.2");
            assert_eq!(ask_from(&outside, "192.0.2.1:81").unwrap(), "192.0.2.2");
            assert!(from_host("127.0.0.1:81").is_err());
            assert!(ask_from(&outside, "192.0.2.1:80").is_err());
            // From another pod, and from the pod itself, which must not be answered behind the host's back.
            assert_eq!(ask_from(&b, "10.88.0.1:8080").unwrap(), "10.88.0.1");
            assert_eq!(ask_from(&b, "192.0.2.1:8080").unwrap(), "10.88.0.1");
            assert_eq!(ask_from(&a, "192.0.2.1:8080").unwrap(), "10.88.0.1");
            udp_echo_works(&a, "127.0.0.1:53");
        });
    });
}

fn udp_echo_works(pod: &Namespace, host: &str) {
    pod.run(|| {
        let socket = UdpSocket::bind("0.0.0.0:53").unwrap();
        std::thread::spawn(move || {
            let mut buffer = [0; 64];
            let (n, from) = socket.recv_from(&mut buffer).unwrap();
            socket.send_to(&buffer[..n], from).unwrap();
        });
    });
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(SECOND)).unwrap();
    socket.send_to(b"ping", host).unwrap();
    let mut buffer = [0; 64];
    let (n, from) = socket.recv_from(&mut buffer).unwrap();
    assert_eq!((&buffer[..n], from.to_string().as_str()), (&b"ping"[..], host));
}

#[test]
fn a_pod_does_not_reach_what_listens_on_the_hosts_localhost() {
    on_private_host("a_pod_does_not_reach_what_listens_on_the_hosts_localhost", || {
        let dir = tempfile::tempdir().unwrap();
        let networks = Networks::open(&config(dir.path())).unwrap();
        let pod = Namespace::new();
        block_on(async { pod.attach(&networks, &[]).await.unwrap() });
        // What a pod with NET_ADMIN can do: send 127.0.0.2 out of eth0, from its own address.
        pod.sh(
            "echo 1 >/proc/sys/net/ipv4/conf/all/route_localnet; ip rule add pref 1 to 127.0.0.2 lookup 5;
             ip route add 127.0.0.2 via 10.88.0.1 dev eth0 src 10.88.0.2 table 5; ip rule add pref 2 lookup local; ip rule del pref 0",
        );
        let _secret = TcpListener::bind("127.0.0.2:6001").unwrap();
        assert!(ask_from(&pod, "127.0.0.2:6001").is_err());
        sh("nft flush chain ip crisp-crisp0 guard");
        let reached =
            pod.run(|| TcpStream::connect_timeout(&"127.0.0.2:6001".parse().unwrap(), SECOND).is_ok());
        assert!(reached, "the attack does not work even without the guard: the test shows nothing");
    });
}

#[test]
fn ports_of_others_are_refused_by_name() {
    on_private_host("ports_of_others_are_refused_by_name", || {
        let dir = tempfile::tempdir().unwrap();
        let networks = Networks::open(&config(dir.path())).unwrap();
        let (a, b) = (Namespace::new(), Namespace::new());
        block_on(async {
            a.attach(&networks, &[port(Protocol::Tcp, 8080, 80)]).await.unwrap();
            let before = traces();
            let error = b.attach(&networks, &[port(Protocol::Tcp, 8080, 80)]).await.unwrap_err().to_string();
            let expected = format!("host port 8080/tcp on 0.0.0.0 is already in use by pod {}", a.id.short());
            assert_eq!(error, expected);
            let _listener = TcpListener::bind("127.0.0.1:9090").unwrap();
            let error = b.attach(&networks, &[port(Protocol::Tcp, 9090, 80)]).await.unwrap_err().to_string();
            assert_eq!(error, "host port 9090/tcp on 0.0.0.0 is already in use by a process on this host");
            assert_eq!(traces(), before);
            assert_eq!(networks.attachment(&b.id), None);
            networks.detach(&a.id).await.unwrap();
            b.attach(&networks, &[port(Protocol::Tcp, 8080, 80)]).await.unwrap();
        });
    });
}

#[test]
fn a_pool_that_the_host_uses_is_refused_or_passed_over() {
    on_private_host("a_pool_that_the_host_uses_is_refused_or_passed_over", || {
        let dir = tempfile::tempdir().unwrap();
        sh(
            "ip link add lan0 type veth peer name lan1 && ip link set lan0 up && ip route add 10.88.7.0/24 dev lan0",
        );
        let networks = Networks::open(&config(dir.path())).unwrap();
        let pod = Namespace::new();
        let before = traces();
        let error = block_on(pod.attach(&networks, &[])).unwrap_err().to_string();
        assert_eq!(
            error,
            "pod address pool 10.88.0.0/16 overlaps the host's route 10.88.7.0/24 on lan0: set pod_cidr to a network the host does not use"
        );
        let status = networks.status();
        assert_eq!((status.ready, status.reason.as_str(), status.message), (false, "PodCidrOverlaps", error));
        assert_eq!(traces(), before);
        let auto = NetworkConfig { pod_cidrs: "auto".parse().unwrap(), ..config(dir.path()) };
        let networks = Networks::open(&auto).unwrap();
        let attachment = block_on(pod.attach(&networks, &[])).unwrap();
        assert_eq!(ip(&attachment), "10.89.0.2");
    });
}

#[test]
fn a_restarted_server_knows_its_pods_and_two_servers_live_side_by_side() {
    on_private_host("a_restarted_server_knows_its_pods_and_two_servers_live_side_by_side", || {
        let dir = tempfile::tempdir().unwrap();
        let other_dir = tempfile::tempdir().unwrap();
        let before = traces();
        let (a, b, c) = (Namespace::new(), Namespace::new(), Namespace::new());
        block_on(async {
            let networks = Networks::open(&config(dir.path())).unwrap();
            let attachment = a.attach(&networks, &[port(Protocol::Tcp, 8080, 80)]).await.unwrap();
            tell_callers_who_they_are(&a, 80);
            drop(networks);
            let networks = Networks::open(&config(dir.path())).unwrap();
            assert_eq!(networks.attachment(&a.id), Some(attachment));
            assert!(b.attach(&networks, &[port(Protocol::Tcp, 8080, 80)]).await.is_err());
            assert_eq!(ip(&b.attach(&networks, &[]).await.unwrap()), "10.88.0.3");
            assert_eq!(ask("127.0.0.1:8080").unwrap(), "10.88.0.1");

            let same = Networks::open(&config(other_dir.path())).unwrap();
            let error = c.attach(&same, &[]).await.unwrap_err().to_string();
            assert!(
                error.contains("interface crisp0 exists and belongs to the server with its network state in"),
                "{error}"
            );
            let other = NetworkConfig {
                bridge_name: "crisp1".to_owned(),
                pod_cidrs: "auto".parse().unwrap(),
                ..config(other_dir.path())
            };
            let other = Networks::open(&other).unwrap();
            assert_eq!(ip(&c.attach(&other, &[]).await.unwrap()), "10.89.0.2");

            other.close_if_unused().await.unwrap();
            assert!(sh("ip link").contains("crisp1"), "closed under a pod");
            other.detach(&c.id).await.unwrap();
            other.close_if_unused().await.unwrap();
            assert_eq!(networks.gc(&[b.id.clone()]).await.unwrap(), [a.id.clone()]);
            assert!(ask("127.0.0.1:8080").is_err());
            networks.detach(&b.id).await.unwrap();
            networks.detach(&b.id).await.unwrap();
            networks.detach(&PodId::random()).await.unwrap();
            networks.close_if_unused().await.unwrap();
        });
        assert_eq!(traces(), before);
    });
}

#[test]
fn a_failed_attach_leaves_nothing() {
    on_private_host("a_failed_attach_leaves_nothing", || {
        let dir = tempfile::tempdir().unwrap();
        let networks = Networks::open(&config(dir.path())).unwrap();
        let (good, bad) = (Namespace::new(), Namespace::new());
        block_on(async {
            good.attach(&networks, &[]).await.unwrap();
            let before = traces();
            // Not a namespace.
            let mut request = bad.request(&[port(Protocol::Tcp, 8080, 80)]);
            request.netns = std::sync::Arc::new(std::fs::File::open("/dev/null").unwrap().into());
            let error = networks.attach(request).await.unwrap_err().to_string();
            assert!(error.contains("create veth pair"), "{error}");
            // Another pod's socket: the interface is not where it looks.
            let mut request = bad.request(&[port(Protocol::Tcp, 8080, 80)]);
            request.netlink = Namespace::new().netlink;
            let error = networks.attach(request).await.unwrap_err().to_string();
            assert!(error.contains("look up the pod's interface"), "{error}");
            assert_eq!(traces(), before);
            assert!(networks.attach(good.request(&[])).await.unwrap_err().to_string().contains("attached"));
            assert!(networks.attachment(&good.id).is_some());
            bad.attach(&networks, &[port(Protocol::Tcp, 8080, 80)]).await.unwrap();
        });
    });
}

#[test]
fn flushed_rules_and_a_deleted_bridge_come_back_with_the_next_pod() {
    on_private_host("flushed_rules_and_a_deleted_bridge_come_back_with_the_next_pod", || {
        let dir = tempfile::tempdir().unwrap();
        let networks = Networks::open(&config(dir.path())).unwrap();
        let (a, b, c) = (Namespace::new(), Namespace::new(), Namespace::new());
        block_on(async {
            a.attach(&networks, &[port(Protocol::Tcp, 8080, 80)]).await.unwrap();
            tell_callers_who_they_are(&a, 80);
            sh("nft flush ruleset; ip link del crisp0");
            b.attach(&networks, &[port(Protocol::Tcp, 8081, 80)]).await.unwrap();
            assert_eq!(ask("127.0.0.1:8080").unwrap(), "10.88.0.1");
            assert_eq!(ask_from(&b, "10.88.0.2:80").unwrap(), "10.88.0.3");
            sh("nft flush ruleset");
            networks.detach(&b.id).await.unwrap();
            assert_eq!(ask("127.0.0.1:8080").unwrap(), "10.88.0.1");
            sh(
                "ip link add x0 type bridge; nft add table ip filter; nft 'add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }'; nft delete table ip crisp-crisp0",
            );
            c.attach(&networks, &[]).await.unwrap();
            let message = networks.status().message;
            assert!(
                message.ends_with(
                    "nftables chain filter/FORWARD drops forwarded packets unless it accepts crisp0"
                ),
                "{message}"
            );
        });
    });
}

#[test]
fn nft_prints_our_rules_as_they_are_meant() {
    on_private_host("nft_prints_our_rules_as_they_are_meant", || {
        let dir = tempfile::tempdir().unwrap();
        let networks = Networks::open(&config(dir.path())).unwrap();
        let pod = Namespace::new();
        let lan: IpAddr = "192.0.2.1".parse().unwrap();
        let on_lan = PortMapping { host_ip: Some(lan), ..port(Protocol::Udp, 53, 5353) };
        block_on(pod.attach(&networks, &[port(Protocol::Tcp, 8080, 80), on_lan])).unwrap();
        let printed = sh("nft list table ip crisp-crisp0");
        println!("{printed}");
        for line in [
            "type inet_proto . inet_service : ipv4_addr . inet_service",
            "elements = { tcp . 8080 : 10.88.0.2 . 80 }",
            "type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service",
            "elements = { 192.0.2.1 . udp . 53 : 10.88.0.2 . 5353 }",
            "type ipv4_addr . inet_proto . inet_service",
            "type filter hook prerouting priority raw; policy accept;",
            "iifname \"crisp0\" ip daddr 127.0.0.0/8 drop",
            "iifname \"crisp0\" ip saddr != 10.88.0.0/16 drop",
            "type nat hook prerouting priority dstnat; policy accept;",
            "fib daddr type local dnat ip to ip daddr . meta l4proto . th dport map @ports_by_address",
            "fib daddr type local dnat ip to meta l4proto . th dport map @ports",
            "type nat hook output priority -100; policy accept;",
            "type nat hook postrouting priority srcnat; policy accept;",
            "oifname != \"crisp0\" ip saddr 10.88.0.0/16 ip daddr != 10.88.0.0/16 masquerade",
            "oifname \"crisp0\" ip saddr 127.0.0.0/8 masquerade",
            "oifname \"crisp0\" ip saddr 10.88.0.0/16 ct status dnat ip daddr . meta l4proto . th dport @published masquerade",
        ] {
            assert!(printed.lines().any(|l| l.trim() == line), "missing: {line}");
        }
    });
}

#[test]
fn a_thousand_ports_fit_and_attaching_is_quick() {
    on_private_host("a_thousand_ports_fit_and_attaching_is_quick", || {
        let dir = tempfile::tempdir().unwrap();
        let networks = Networks::open(&config(dir.path())).unwrap();
        let many: Vec<PortMapping> = (20000..21000).map(|p| port(Protocol::Tcp, p, p)).collect();
        let big = Namespace::new();
        block_on(async {
            big.attach(&networks, &many).await.unwrap();
            drop(networks);
            let networks = Networks::open(&config(dir.path())).unwrap();
            let (mut up, mut down) = (Vec::new(), Vec::new());
            for _ in 0..60 {
                let pod = Namespace::new();
                let start = Instant::now();
                pod.attach(&networks, &[]).await.unwrap();
                up.push(start.elapsed());
                let start = Instant::now();
                networks.detach(&pod.id).await.unwrap();
                down.push(start.elapsed());
            }
            up.sort();
            down.sort();
            println!(
                "attach p50 {:?} p90 {:?}, detach p50 {:?} p90 {:?}",
                up[30], up[54], down[30], down[54]
            );
            assert!(up[30] < Duration::from_millis(20), "attaching a pod takes {:?}", up[30]);
            assert_eq!(
                sh("nft list set ip crisp-crisp0 published | grep -o 10.88.0.2 | wc -l").trim(),
                "1000"
            );
        });
    });
}

#[test]
fn eight_at_a_time_for_a_hundred_pods() {
    on_private_host("eight_at_a_time_for_a_hundred_pods", || {
        let dir = tempfile::tempdir().unwrap();
        let before = traces();
        let networks = Networks::open(&config(dir.path())).unwrap();
        block_on(async {
            let workers: Vec<_> = (0..8u16)
                .map(|worker| {
                    let networks = networks.clone();
                    tokio::spawn(async move {
                        for round in 0..13u16 {
                            let pod = Namespace::new();
                            let ports = [port(Protocol::Tcp, 20000 + worker, 80)];
                            let attachment = pod.attach(&networks, &ports).await.unwrap();
                            assert_eq!(networks.attachment(&pod.id), Some(attachment), "{worker} {round}");
                            networks.detach(&pod.id).await.unwrap();
                        }
                    })
                })
                .collect();
            for worker in workers {
                worker.await.unwrap();
            }
            networks.close_if_unused().await.unwrap();
        });
        assert_eq!(traces(), before);
        let records = std::fs::read_dir(dir.path().join("state/pods")).unwrap().count();
        assert_eq!(records, 0);
    });
}
