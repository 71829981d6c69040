//! Published ports, and the packet rules that publish them.

use std::net::{IpAddr, TcpListener, TcpStream, UdpSocket};

use crisp_sandbox::network::{Networks, PortMapping, Protocol};

use crate::support::CollectGarbage as _;
use crate::support::{
    Namespace, SECOND, ask, ask_from, block_on, config, on_private_host, outside, port, sh,
    tell_callers_who_they_are, traces,
};

#[test]
fn host_ports_lead_to_the_pod_from_everywhere() {
    on_private_host(module_path!(), "host_ports_lead_to_the_pod_from_everywhere", || {
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
    on_private_host(module_path!(), "a_pod_does_not_reach_what_listens_on_the_hosts_localhost", || {
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
    on_private_host(module_path!(), "ports_of_others_are_refused_by_name", || {
        let dir = tempfile::tempdir().unwrap();
        let networks = Networks::open(&config(dir.path())).unwrap();
        let (a, b) = (Namespace::new(), Namespace::new());
        block_on(async {
            a.attach(&networks, &[port(Protocol::Tcp, 8080, 80)]).await.unwrap();
            let before = traces();
            let error = b.attach(&networks, &[port(Protocol::Tcp, 8080, 80)]).await.unwrap_err().to_string();
            let holder = format!("is already in use by pod default/web ({})", a.id.short());
            assert_eq!(error, format!("host port 8080/tcp {holder}"));
            let _listener = TcpListener::bind("127.0.0.1:9090").unwrap();
            let error = b.attach(&networks, &[port(Protocol::Tcp, 9090, 80)]).await.unwrap_err().to_string();
            assert!(error.starts_with("host port 9090/tcp is already in use by process "), "{error}");
            assert!(error.ends_with(&format!("(pid {}) on 127.0.0.1", std::process::id())), "{error}");
            assert_eq!(traces(), before);
            assert_eq!(networks.attachment(&b.id), None);
            // No later process gets the pod's port, also after a restart of the server, until the pod is gone.
            assert!(TcpListener::bind("127.0.0.1:8080").is_err());
            drop(networks);
            TcpListener::bind("127.0.0.1:8080").unwrap();
            let networks = Networks::open(&config(dir.path())).unwrap();
            assert!(TcpListener::bind("127.0.0.1:8080").is_err());
            networks.detach(&a.id).await.unwrap();
            TcpListener::bind("127.0.0.1:8080").unwrap();
            b.attach(&networks, &[port(Protocol::Tcp, 8080, 80)]).await.unwrap();
        });
    });
}

#[test]
fn nft_prints_our_rules_as_they_are_meant() {
    on_private_host(module_path!(), "nft_prints_our_rules_as_they_are_meant", || {
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
            "192.0.2.1 . udp . 53 : 10.88.0.2 . 5353",
            "10.88.0.1 . udp . 53 : 10.88.0.1 . ",
            "10.88.0.1 . tcp . 53 : 10.88.0.1 . ",
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
            assert!(printed.contains(line), "missing: {line}");
        }
    });
}

#[test]
fn a_thousand_ports_fit_and_other_pods_do_not_touch_them() {
    on_private_host(module_path!(), "a_thousand_ports_fit_and_other_pods_do_not_touch_them", || {
        let dir = tempfile::tempdir().unwrap();
        let networks = Networks::open(&config(dir.path())).unwrap();
        let many: Vec<PortMapping> = (20000..21000).map(|p| port(Protocol::Tcp, p, p)).collect();
        let big = Namespace::new();
        block_on(async {
            big.attach(&networks, &many).await.unwrap();
            drop(networks);
            let networks = Networks::open(&config(dir.path())).unwrap();
            for _ in 0..60 {
                let pod = Namespace::new();
                pod.attach(&networks, &[]).await.unwrap();
                networks.detach(&pod.id).await.unwrap();
            }
            assert_eq!(
                sh("nft list set ip crisp-crisp0 published | grep -o 10.88.0.2 | wc -l").trim(),
                "1000"
            );
        });
    });
}

#[test]
fn a_udp_sender_that_was_there_first_reaches_the_pod() {
    on_private_host(module_path!(), "a_udp_sender_that_was_there_first_reaches_the_pod", || {
        let dir = tempfile::tempdir().unwrap();
        let networks = Networks::open(&config(dir.path())).unwrap();
        let (other, a, b) = (Namespace::new(), Namespace::new(), Namespace::new());
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        sender.set_read_timeout(Some(SECOND)).unwrap();
        let try_it = || {
            sender.send_to(b"x", "127.0.0.1:5300").unwrap();
            sender.recv_from(&mut [0; 8]).is_ok()
        };
        block_on(async {
            // From the first pod on the kernel keeps track of flows.
            other.attach(&networks, &[]).await.unwrap();
            assert!(!try_it());
            for pod in [&a, &b] {
                pod.run(|| {
                    let socket = UdpSocket::bind("0.0.0.0:53").unwrap();
                    std::thread::spawn(move || {
                        let mut buffer = [0; 8];
                        while let Ok((n, from)) = socket.recv_from(&mut buffer) {
                            let _ = socket.send_to(&buffer[..n], from);
                        }
                    });
                });
                pod.attach(&networks, &[port(Protocol::Udp, 5300, 53)]).await.unwrap();
                assert!(try_it(), "the sender's old flow is still in force");
                networks.detach(&pod.id).await.unwrap();
            }
        });
    });
}

#[test]
fn a_server_killed_just_after_a_detach_holds_no_port() {
    on_private_host(module_path!(), "a_server_killed_just_after_a_detach_holds_no_port", || {
        let dir = tempfile::tempdir().unwrap();
        let before = traces();
        let (a, b) = (Namespace::new(), Namespace::new());
        block_on(async {
            let killed = Networks::open(&config(dir.path())).unwrap();
            let address = a.attach(&killed, &[port(Protocol::Tcp, 8080, 80)]).await.unwrap().ips;
            killed.detach(&a.id).await.unwrap();
            // The next server starts before the interface of the first pod is deleted.
            let networks = Networks::open(&config(dir.path())).unwrap();
            assert_eq!(networks.attachment(&a.id), None);
            let attached = b.attach(&networks, &[port(Protocol::Tcp, 8080, 80)]).await.unwrap();
            assert_ne!(attached.ips, address, "the address is still on the old interface");
            networks.collect_garbage(&[]).await.unwrap();
            networks.close_if_unused().await.unwrap();
        });
        assert_eq!(traces(), before);
    });
}

#[test]
fn thousands_of_ports_are_published_also_after_the_table_was_flushed() {
    on_private_host(
        module_path!(),
        "thousands_of_ports_are_published_also_after_the_table_was_flushed",
        || {
            let dir = tempfile::tempdir().unwrap();
            let networks = Networks::open(&config(dir.path())).unwrap();
            let published = || sh("nft list map ip crisp-crisp0 ports | grep -o udp | wc -l");
            let (a, b) = (Namespace::new(), Namespace::new());
            let ports: Vec<PortMapping> =
                (20_000..25_000).map(|number| port(Protocol::Udp, number, number)).collect();
            block_on(a.attach(&networks, &ports)).unwrap();
            assert_eq!(published().trim(), "5000");
            sh("nft flush ruleset");
            block_on(b.attach(&networks, &[])).unwrap();
            assert_eq!(published().trim(), "5000");
            block_on(networks.detach(&a.id)).unwrap();
            assert_eq!(published().trim(), "0");
            block_on(networks.detach(&b.id)).unwrap();
            block_on(networks.close_if_unused()).unwrap();
        },
    );
}
