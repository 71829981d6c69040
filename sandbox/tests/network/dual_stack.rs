//! IPv6 on the built-in network, beside IPv4.

use std::net::{IpAddr, TcpListener, UdpSocket};
use std::time::Duration;

use crisp_sandbox::network::{NetworkConfig, Networks, PodCidrsV6, PortMapping, Protocol};

use crate::support::{
    Namespace, ask, ask_from, ask_twice, block_on, config, on_private_host, outside, port, sh,
    tell_callers_who_they_are, traces,
};

fn texts(ips: &[IpAddr]) -> Vec<String> {
    ips.iter().map(ToString::to_string).collect()
}

#[test]
fn pods_reach_each_other_the_host_and_the_outside_over_ipv6() {
    on_private_host(module_path!(), "pods_reach_each_other_the_host_and_the_outside_over_ipv6", || {
        let dir = tempfile::tempdir().unwrap();
        let outside = outside();
        tell_callers_who_they_are(&outside, 80);
        let networks = Networks::open(&config(dir.path())).unwrap();
        let (a, b) = (Namespace::new(), Namespace::new());
        block_on(async {
            let on_a = a.attach(&networks, &[]).await.unwrap();
            // At once: no second of waiting for others to say that they have the address.
            assert_eq!(a.sh("ip -6 addr show tentative"), "");
            assert_eq!(sh("ip -6 addr show dev crisp0 tentative"), "");
            // Neither side has to ask for a hardware address: an answer may take a second.
            assert_eq!(
                sh("ip neigh show dev crisp0 | grep -cE '^(10.88.0.2|fd88::2) lladdr 0a:58:0a:58:00:02'")
                    .trim(),
                "2"
            );
            assert_eq!(a.sh("ip neigh show dev eth0 | grep -cE '^(10.88.0.1|fd88::1) lladdr'").trim(), "2");
            assert_eq!(ask_from(&a, "[2001:db8::2]:80").unwrap(), "2001:db8::1");
            let on_b = b.attach(&networks, &[]).await.unwrap();
            assert_eq!(texts(&on_a.ips), ["10.88.0.2", "fd88::2"]);
            assert_eq!(texts(&on_b.ips), ["10.88.0.3", "fd88::3"]);
            tell_callers_who_they_are(&b, 8080);
            assert_eq!(a.run(|| ask_twice("[fd88::3]:8080")).unwrap(), "fd88::2");
            assert_eq!(ask("[fd88::3]:8080").unwrap(), "fd88::1");
            let neighbours = a.sh("ip -6 addr show dev eth0 scope link | grep -c fe80");
            assert_eq!(neighbours.trim(), "1");
            drop(networks);
            // The next server knows both addresses.
            let networks = Networks::open(&config(dir.path())).unwrap();
            assert_eq!(networks.attachment(&a.id), Some(on_a));
        });
    });
}

#[test]
fn host_ports_lead_to_the_pod_over_ipv6() {
    on_private_host(module_path!(), "host_ports_lead_to_the_pod_over_ipv6", || {
        let dir = tempfile::tempdir().unwrap();
        let outside = outside();
        let networks = Networks::open(&config(dir.path())).unwrap();
        let (a, b) = (Namespace::new(), Namespace::new());
        let on = |ip: &str, number| PortMapping {
            host_ip: Some(ip.parse().unwrap()),
            ..port(Protocol::Tcp, number, 80)
        };
        let ports = [port(Protocol::Tcp, 8080, 80), on("2001:db8::1", 81), on("0.0.0.0", 82), on("::", 83)];
        block_on(async {
            a.attach(&networks, &ports).await.unwrap();
            b.attach(&networks, &[]).await.unwrap();
            tell_callers_who_they_are(&a, 80);
            // The host has never spoken to the pod: it has to ask for its hardware address for a packet that
            // is not its own.
            assert_eq!(ask_from(&outside, "[2001:db8::1]:8080").unwrap(), "2001:db8::2");
            assert_eq!(ask_from(&outside, "[2001:db8::1]:81").unwrap(), "2001:db8::2");
            assert_eq!(ask_from(&outside, "[2001:db8::1]:83").unwrap(), "2001:db8::2");
            assert_eq!(ask("[2001:db8::1]:8080").unwrap(), "2001:db8::1");
            assert!(ask("[fd88::1]:81").is_err());
            assert_eq!(ask_from(&b, "[fd88::1]:8080").unwrap(), "fd88::1");
            assert_eq!(ask_from(&a, "[2001:db8::1]:8080").unwrap(), "fd88::1");
            // Ports on one family.
            assert_eq!(ask("127.0.0.1:82").unwrap(), "10.88.0.1");
            assert!(ask("[2001:db8::1]:82").is_err() && ask("127.0.0.1:83").is_err());
            // An answer, and no wait for one.
            let refused = ask("[::1]:8080").unwrap_err();
            assert!(refused.contains("refused"), "{refused}");
            let error = b.attach(&networks, &[on("::1", 90)]).await.unwrap_err().to_string();
            assert!(error.starts_with("pod ") || error.contains("publish it on 127.0.0.1"), "{error}");
            networks.detach(&a.id).await.unwrap();
            assert!(ask("[2001:db8::1]:8080").is_err());
            TcpListener::bind("[2001:db8::1]:81").unwrap();
        });
    });
}

#[test]
fn ipv6_is_left_out_where_it_is_off() {
    on_private_host(module_path!(), "ipv6_is_left_out_where_it_is_off", || {
        let dir = tempfile::tempdir().unwrap();
        let attach = |config: &NetworkConfig| {
            let networks = Networks::open(config).unwrap();
            let pod = Namespace::new();
            block_on(async {
                let ips = pod.attach(&networks, &[]).await.map(|attached| texts(&attached.ips));
                let status = networks.status();
                networks.detach(&pod.id).await.unwrap();
                networks.close_if_unused().await.unwrap();
                (ips.map_err(|error| error.to_string()), status)
            })
        };
        let of = |pools: PodCidrsV6| NetworkConfig { pod_cidrs_v6: pools, ..config(dir.path()) };
        assert_eq!(attach(&of(PodCidrsV6::Off)).0.unwrap(), ["10.88.0.2"]);
        let auto = attach(&of(PodCidrsV6::Auto)).0.unwrap();
        assert!(
            auto[1].starts_with("fd") && auto[1].ends_with(":0:0:0:2") || auto[1].ends_with("::2"),
            "{auto:?}"
        );
        sh("echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6");
        let (ips, status) = attach(&of(PodCidrsV6::Auto));
        assert_eq!(ips.unwrap(), ["10.88.0.2"]);
        assert_eq!(status.message, "built-in network on bridge crisp0, addresses from 10.88.0.0/16");
        let (error, status) = attach(&config(dir.path()));
        let error = error.unwrap_err();
        assert!(error.starts_with("pod-cidr-v6 is fd88::/64, but IPv6 is off on this host"), "{error}");
        assert_eq!((status.ready, status.message), (false, error));
    });
}

#[test]
fn a_pod_that_turns_ipv6_off_has_one_address() {
    on_private_host(module_path!(), "a_pod_that_turns_ipv6_off_has_one_address", || {
        let dir = tempfile::tempdir().unwrap();
        let networks = Networks::open(&config(dir.path())).unwrap();
        let pod = Namespace::new();
        pod.sh("echo 1 >/proc/sys/net/ipv6/conf/default/disable_ipv6");
        block_on(async {
            let attached = pod.attach(&networks, &[port(Protocol::Tcp, 8080, 80)]).await.unwrap();
            assert_eq!(texts(&attached.ips), ["10.88.0.2"]);
            tell_callers_who_they_are(&pod, 80);
            assert_eq!(ask("127.0.0.1:8080").unwrap(), "10.88.0.1");
            assert_eq!(networks.attachment(&pod.id), Some(attached.clone()));
            drop(networks);
            let networks = Networks::open(&config(dir.path())).unwrap();
            assert_eq!(networks.attachment(&pod.id), Some(attached));
        });
    });
}

#[test]
fn pods_of_a_network_without_ipv6_keep_theirs_until_they_are_gone() {
    on_private_host(module_path!(), "pods_of_a_network_without_ipv6_keep_theirs_until_they_are_gone", || {
        let dir = tempfile::tempdir().unwrap();
        let before = traces();
        let (a, b, c) = (Namespace::new(), Namespace::new(), Namespace::new());
        block_on(async {
            let off = NetworkConfig { pod_cidrs_v6: PodCidrsV6::Off, ..config(dir.path()) };
            let networks = Networks::open(&off).unwrap();
            a.attach(&networks, &[]).await.unwrap();
            drop(networks);
            let networks = Networks::open(&config(dir.path())).unwrap();
            assert_eq!(texts(&b.attach(&networks, &[]).await.unwrap().ips), ["10.88.0.3"]);
            networks.detach(&a.id).await.unwrap();
            networks.detach(&b.id).await.unwrap();
            assert_eq!(texts(&c.attach(&networks, &[]).await.unwrap().ips)[1], "fd88::2");
            // And back.
            networks.detach(&c.id).await.unwrap();
            drop(networks);
            let networks = Networks::open(&off).unwrap();
            assert_eq!(a.attach(&networks, &[]).await.unwrap().ips.len(), 1);
            assert_eq!(sh("ip -6 addr show dev crisp0"), "");
            networks.detach(&a.id).await.unwrap();
            networks.close_if_unused().await.unwrap();
        });
        assert_eq!(traces(), before);
    });
}

#[test]
fn nft_prints_our_ipv6_rules_as_they_are_meant() {
    on_private_host(module_path!(), "nft_prints_our_ipv6_rules_as_they_are_meant", || {
        let dir = tempfile::tempdir().unwrap();
        let networks = Networks::open(&config(dir.path())).unwrap();
        let pod = Namespace::new();
        let on_lan =
            PortMapping { host_ip: Some("2001:db8::1".parse().unwrap()), ..port(Protocol::Udp, 53, 5353) };
        block_on(pod.attach(&networks, &[port(Protocol::Sctp, 8080, 80), on_lan])).unwrap();
        let printed = sh("nft list table ip6 crisp-crisp0");
        println!("{printed}");
        for line in [
            "type inet_proto . inet_service : ipv6_addr . inet_service",
            "elements = { sctp . 8080 : fd88::2 . 80 }",
            "type ipv6_addr . inet_proto . inet_service : ipv6_addr . inet_service",
            "2001:db8::1 . udp . 53 : fd88::2 . 5353",
            "fd88::1 . udp . 53 : fd88::1 . ",
            "type ipv6_addr . inet_proto . inet_service",
            "iifname \"crisp0\" ip6 saddr fe80::/10 accept",
            "iifname \"crisp0\" ip6 saddr :: accept",
            "iifname \"crisp0\" ip6 saddr != fd88::/64 drop",
            "fib daddr type local dnat ip6 to ip6 daddr . meta l4proto . th dport map @ports_by_address",
            "fib daddr type local dnat ip6 to meta l4proto . th dport map @ports",
            "ip6 daddr ::1 accept",
            "oifname != \"crisp0\" ip6 saddr fd88::/64 ip6 daddr != fd88::/64 masquerade",
            "oifname \"crisp0\" ip6 saddr fd88::/64 ct status dnat ip6 daddr . meta l4proto . th dport @published masquerade",
        ] {
            assert!(printed.contains(line), "missing: {line}");
        }
    });
}

#[test]
fn an_ipv6_sender_that_was_there_first_reaches_the_pod() {
    on_private_host(module_path!(), "an_ipv6_sender_that_was_there_first_reaches_the_pod", || {
        let dir = tempfile::tempdir().unwrap();
        let outside = outside();
        let networks = Networks::open(&config(dir.path())).unwrap();
        let (other, pod) = (Namespace::new(), Namespace::new());
        let sender = outside.run(|| {
            let socket = UdpSocket::bind("[2001:db8::2]:0").unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
            socket
        });
        let try_it = || {
            sender.send_to(b"x", "[2001:db8::1]:5300").unwrap();
            sender.recv_from(&mut [0; 8]).is_ok()
        };
        block_on(async {
            other.attach(&networks, &[]).await.unwrap();
            assert!(!try_it());
            pod.run(|| {
                let socket = UdpSocket::bind("[::]:53").unwrap();
                std::thread::spawn(move || {
                    let mut buffer = [0; 8];
                    while let Ok((n, from)) = socket.recv_from(&mut buffer) {
                        let _ = socket.send_to(&buffer[..n], from);
                    }
                });
            });
            pod.attach(&networks, &[port(Protocol::Udp, 5300, 53)]).await.unwrap();
            assert!(try_it(), "the sender's old flow is still in force");
        });
    });
}
