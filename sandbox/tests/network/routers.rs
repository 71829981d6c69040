//! Router advertisements: no pod is taken for a router, and the host keeps its own (CVE-2020-10749, CVE-2020-13401).

use std::net::{Ipv6Addr, SocketAddrV6};

use crisp_sandbox::network::{Connection, NetworkConfig, NetworkKind, Networks, NewNetwork, PodCidrsV6};
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, ipproto, sendto, socket_with, sockopt};

use crate::plugins::{RESULT, two};
use crate::support::{Namespace, block_on, config, on_private_host, outside, sh};

/// A router advertisement for the prefix 2001:db8:bad::/64; the kernel fills the checksum in.
fn advertisement() -> Vec<u8> {
    let mut message = vec![134, 0, 0, 0, 64, 0, 0x07, 0x08, 0, 0, 0, 0, 0, 0, 0, 0];
    message.extend([3, 4, 64, 0xc0, 0, 1, 0x51, 0x80, 0, 0, 0x38, 0x40, 0, 0, 0, 0]);
    message.extend(Ipv6Addr::new(0x2001, 0xdb8, 0xbad, 0, 0, 0, 0, 0).octets());
    message
}

/// Sends one from inside, as a container can with the default capability NET_RAW.
fn advertise(from: &Namespace, interface: &'static str) {
    from.run(move || {
        sh(&format!("ip -6 addr add fe80::bad/64 dev {interface} nodad"));
        let index = sh(&format!("ip -o link show dev {interface}"));
        let index = index.split(':').next().unwrap().parse().unwrap();
        let socket =
            socket_with(AddressFamily::INET6, SocketType::RAW, SocketFlags::CLOEXEC, Some(ipproto::ICMPV6));
        let socket = socket.unwrap();
        sockopt::set_ipv6_multicast_hops(&socket, 255).unwrap();
        let all_nodes = SocketAddrV6::new("ff02::1".parse().unwrap(), 0, 0, index);
        sendto(&socket, &advertisement(), SendFlags::empty(), &all_nodes).unwrap();
    });
}

/// The routes and addresses that were learned from it, a moment later.
const LEARNED: &str = "sleep 0.3; ip -6 route show | grep -e fe80::bad -e 2001:db8:bad || true";

fn setting(of: &str) -> String {
    sh(&format!("cat /proc/sys/net/ipv6/conf/{of}")).trim().to_owned()
}

#[test]
fn no_pod_is_taken_for_a_router_where_pods_have_no_ipv6() {
    on_private_host(module_path!(), "no_pod_is_taken_for_a_router_where_pods_have_no_ipv6", || {
        let dir = tempfile::tempdir().unwrap();
        let off =
            NetworkConfig { kind: NetworkKind::BuiltIn, pod_cidrs_v6: PodCidrsV6::Off, ..config(dir.path()) };
        let networks = Networks::open(&off).unwrap();
        let (pod, other, named) = (Namespace::new(), Namespace::new(), Namespace::new());
        let lan = NewNetwork {
            name: "lan".to_owned(),
            subnets: vec!["10.1.1.0/24".parse().unwrap()],
            ipv6: false,
            mtu: None,
            internal: true,
            icc: true,
            masquerade_except: Default::default(),
            addresses: Default::default(),
            labels: Default::default(),
        };
        block_on(async {
            pod.attach(&networks, &[]).await.unwrap();
            other.attach(&networks, &[]).await.unwrap();
            networks.create(lan).await.unwrap();
            let mut request = named.request(&[]);
            request.annotations.insert("crisp/networks".to_owned(), "lan@eth0".to_owned());
            networks.attach(request).await.unwrap();
            // The pod's namespace has no setting against it here: the advertisement gets that far.
            advertise(&pod, "eth0");
            assert!(other.sh(LEARNED).contains("fe80::bad"), "nothing was advertised");
            advertise(&named, "eth0");
            assert_eq!(sh(LEARNED), "");
            // Nor is it while the pods' ends are no ports, because another program has deleted the bridge.
            sh("ip link del crisp0");
            advertise(&other, "eth0");
            assert_eq!(sh(LEARNED), "");
        });
    });
}

#[test]
fn the_bridge_and_the_ports_of_an_earlier_server_are_mended() {
    on_private_host(module_path!(), "the_bridge_and_the_ports_of_an_earlier_server_are_mended", || {
        let dir = tempfile::tempdir().unwrap();
        let off = NetworkConfig { pod_cidrs_v6: PodCidrsV6::Off, ..config(dir.path()) };
        let networks = Networks::open(&off).unwrap();
        let pod = Namespace::new();
        block_on(async {
            pod.attach(&networks, &[]).await.unwrap();
            drop(networks);
            sh(
                "for on in /proc/sys/net/ipv6/conf/cr*; do echo 0 >$on/disable_ipv6; echo 1 >$on/accept_ra; done",
            );
            let networks = Networks::open(&off).unwrap();
            networks.keep_up().await;
        });
        let settings = sh("cd /proc/sys/net/ipv6/conf; cat crisp0/accept_ra cr*/disable_ipv6");
        assert_eq!(settings.split_whitespace().collect::<Vec<_>>(), ["0", "1", "1"]);
    });
}

#[test]
fn no_pod_is_taken_for_a_router_and_the_host_keeps_its_own() {
    let name = "no_pod_is_taken_for_a_router_and_the_host_keeps_its_own";
    on_private_host(module_path!(), name, || {
        let dir = tempfile::tempdir().unwrap();
        let outside = outside();
        sh("ip link add other0 type veth peer name other1 && ip link set other0 up");
        advertise(&outside, "up1");
        assert!(sh(LEARNED).contains("dev up0"));
        let networks = Networks::open(&config(dir.path())).unwrap();
        let pod = Namespace::new();
        block_on(pod.attach(&networks, &[])).unwrap();
        assert_eq!(setting("all/forwarding"), "1");
        assert_eq!((setting("crisp0/accept_ra"), setting("up0/accept_ra")), ("0".into(), "2".into()));
        // Interfaces that other programs make for their pods.
        assert_eq!((setting("default/accept_ra"), setting("other0/accept_ra")), ("1".into(), "1".into()));
        let taken = sh("ip -6 route");
        pod.run(|| sh("ip -6 addr flush dev eth0 scope link"));
        advertise(&pod, "eth0");
        assert!(
            !sh(LEARNED).contains("crisp0") && sh("ip -6 route").lines().count() == taken.lines().count()
        );
    });
}

#[test]
fn a_pod_of_plugins_that_joins_a_network_takes_no_pod_of_it_for_a_router() {
    let name = "a_pod_of_plugins_that_joins_a_network_takes_no_pod_of_it_for_a_router";
    on_private_host(module_path!(), name, || {
        let (_dir, networks) = two(RESULT, RESULT);
        let pod = Namespace::new();
        let connection = Connection { network: "default".to_owned(), ..Connection::default() };
        block_on(async {
            pod.attach(&networks, &[]).await.unwrap();
            networks.connect(pod.request(&[]), connection).await.unwrap();
        });
        let settings = pod.sh("cd /proc/sys/net/ipv6/conf; cat default/accept_ra net1/accept_ra");
        assert_eq!(settings, "1\n0\n");
    });
}
