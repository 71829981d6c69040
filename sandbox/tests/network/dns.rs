//! Names of pods on the built-in networks.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use crisp_sandbox::network::{
    Connection, NETWORKS_ANNOTATION, NetworkConfig, NetworkKind, Networks, NewNetwork, PortMapping, Protocol,
};

use ipnet::IpNet;

use crate::support::{Namespace, SECOND, block_on, config, on_private_host, outside, port, sh};

pub const A: u16 = 1;
const PTR: u16 = 12;
const AAAA: u16 = 28;

fn question(name: &str, kind: u16) -> Vec<u8> {
    let mut message = vec![0xab, 0xcd, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        message.push(u8::try_from(label.len()).unwrap());
        message.extend(label.as_bytes());
    }
    message.extend([0, 0, u8::try_from(kind).unwrap(), 0, 1]);
    message
}

/// The code and the data of the answers, whose names are pointers.
fn read(answer: &[u8], question: &[u8]) -> (u8, Vec<String>) {
    let mut rest = &answer[question.len()..];
    let mut data = Vec::new();
    for _ in 0..u16::from_be_bytes([answer[6], answer[7]]) {
        let length = usize::from(u16::from_be_bytes([rest[10], rest[11]]));
        let bytes = &rest[12..12 + length];
        data.push(match length {
            4 => Ipv4Addr::from(<[u8; 4]>::try_from(bytes).unwrap()).to_string(),
            16 => Ipv6Addr::from(<[u8; 16]>::try_from(bytes).unwrap()).to_string(),
            _ => String::from_utf8_lossy(bytes).into_owned(),
        });
        rest = &rest[12 + length..];
    }
    (answer[3] & 15, data)
}

fn query(pod: &Namespace, server: &str, name: &str, kind: u16) -> Result<(u8, Vec<String>), String> {
    ask_for(SECOND * 8, pod, server, name, kind)
}

pub fn ask_for(
    time: Duration,
    pod: &Namespace,
    server: &str,
    name: &str,
    kind: u16,
) -> Result<(u8, Vec<String>), String> {
    let (server, question): (IpAddr, _) = (server.parse().unwrap(), question(name, kind));
    pod.run(move || {
        let any = if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = UdpSocket::bind(any).unwrap();
        socket.set_read_timeout(Some(time)).unwrap();
        socket.send_to(&question, (server, 53)).unwrap();
        let mut answer = [0; 512];
        let (length, from) = socket.recv_from(&mut answer).map_err(|error| error.to_string())?;
        assert_eq!(from, SocketAddr::new(server, 53));
        Ok(read(&answer[..length], &question))
    })
}

/// UDP datagrams that sockets of this network namespace have received, see proc_net(5).
fn datagrams_to_the_host() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/net/snmp").unwrap();
    let counts = text.lines().filter(|line| line.starts_with("Udp: ")).nth(1).unwrap();
    counts.split(' ').nth(1).unwrap().parse().unwrap()
}

pub fn query_tcp(pod: &Namespace, server: &str, name: &str) -> (u8, Vec<String>) {
    let (server, question): (IpAddr, _) = (server.parse().unwrap(), question(name, A));
    pod.run(move || {
        let mut stream = TcpStream::connect((server, 53)).unwrap();
        stream.write_all(&[&[0, u8::try_from(question.len()).unwrap()], &question[..]].concat()).unwrap();
        let mut length = [0; 2];
        stream.read_exact(&mut length).unwrap();
        let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
        stream.read_exact(&mut answer).unwrap();
        read(&answer, &question)
    })
}

fn found(data: &[&str]) -> Result<(u8, Vec<String>), String> {
    Ok((0, data.iter().map(|text| (*text).to_owned()).collect()))
}

/// A resolver at 192.0.2.2 that answers everything with 203.0.113.9, and the host's resolv.conf that names it.
fn resolver(outside: &Namespace) {
    outside.run(|| {
        let socket = UdpSocket::bind("192.0.2.2:53").unwrap();
        std::thread::spawn(move || {
            let mut question = [0; 512];
            while let Ok((length, from)) = socket.recv_from(&mut question) {
                let mut answer = question[..length].to_vec();
                (answer[2], answer[3], answer[7]) = (0x81, 0x80, 1);
                answer.extend([0xc0, 0x0c, 0, 1, 0, 1, 0, 0, 0, 9, 0, 4, 203, 0, 113, 9]);
                let _ = socket.send_to(&answer, from);
            }
        });
    });
    resolv_conf("nameserver 192.0.2.2");
}

fn resolv_conf(text: &str) {
    sh(&format!("echo '{text}' >/run/resolv.conf; mount --bind /run/resolv.conf /etc/resolv.conf"));
}

fn open(dir: &std::path::Path) -> Networks {
    Networks::open(&NetworkConfig { kind: NetworkKind::BuiltIn, ..config(dir) }).unwrap()
}

pub fn network(name: &str, subnets: Vec<IpNet>, internal: bool) -> NewNetwork {
    NewNetwork {
        name: name.to_owned(),
        ipv6: subnets.iter().any(|subnet| matches!(subnet, IpNet::V6(_))),
        subnets,
        mtu: None,
        internal,
        icc: true,
        masquerade_except: Default::default(),
        addresses: Default::default(),
        labels: Default::default(),
    }
}

fn named(pod: &Namespace, name: &str, networks: &str) -> crisp_sandbox::network::AttachRequest {
    let mut request = pod.request(&[]);
    request.name = name.to_owned();
    if !networks.is_empty() {
        request.annotations.insert(NETWORKS_ANNOTATION.to_owned(), networks.to_owned());
    }
    request
}

#[test]
fn pods_find_each_other_by_name_on_each_network_and_the_rest_of_the_world() {
    let name = "pods_find_each_other_by_name_on_each_network_and_the_rest_of_the_world";
    on_private_host(module_path!(), name, || {
        let dir = tempfile::tempdir().unwrap();
        let outside = outside();
        resolver(&outside);
        let networks = open(dir.path());
        let (a, b, c) = (Namespace::new(), Namespace::new(), Namespace::new());
        block_on(async {
            let subnets = vec!["10.1.1.0/24".parse().unwrap(), "fd01::/64".parse().unwrap()];
            networks.create(network("lan", subnets, true)).await.unwrap();
            networks.attach(named(&a, "web", r#"[{"name":"lan","aliases":["db"]}]"#)).await.unwrap();
            networks.attach(named(&b, "client", "")).await.unwrap();
            networks.attach(named(&c, "inside", "lan@eth0")).await.unwrap();
            let resolvers = [&a, &b, &c].map(|pod| networks.resolver(&pod.id).unwrap().to_string());
            assert_eq!(resolvers, ["10.88.0.1", "10.88.0.1", "10.1.1.1"]);
            for server in ["10.88.0.1", "fd88::1"] {
                assert_eq!(query(&b, server, "web", A), found(&["10.88.0.2"]));
                assert_eq!(query(&b, server, "WEB.default", AAAA), found(&["fd88::2"]));
            }
            assert_eq!(query(&b, "10.88.0.1", "client", A), found(&["10.88.0.3"]), "its own name");
            let pointer = query(&b, "10.88.0.1", "2.0.88.10.in-addr.arpa", PTR).unwrap();
            assert_eq!(pointer.1, ["\u{3}web\u{7}default\0"]);
            assert_eq!(query_tcp(&b, "10.88.0.1", "web"), (0, vec!["10.88.0.2".to_owned()]));
            // By the network that both are in.
            assert_eq!(query(&c, "10.1.1.1", "web", A), found(&["10.1.1.2"]));
            assert_eq!(query(&c, "10.1.1.1", "db", A), found(&["10.1.1.2"]));
            assert_eq!(query(&a, "10.1.1.1", "inside", A), found(&["10.1.1.3"]));
            // Unknown here, so that the world is asked; not for those who do not reach it.
            assert_eq!(query(&b, "10.88.0.1", "db", A), found(&["203.0.113.9"]));
            assert_eq!(query(&b, "10.88.0.1", "www.example.org", A), found(&["203.0.113.9"]));
            assert_eq!(query(&c, "10.1.1.1", "www.example.org", A).unwrap().0, 5);
            // Others than pods get no answer.
            outside.sh("ip route add 10.88.0.0/16 via 192.0.2.1");
            outside.run(|| {
                let socket = UdpSocket::bind("192.0.2.2:0").unwrap();
                socket.set_read_timeout(Some(SECOND / 2)).unwrap();
                socket.send_to(&question("web", A), "10.88.0.1:53").unwrap();
                assert!(socket.recv_from(&mut [0; 512]).is_err());
            });
            networks.detach(&a.id).await.unwrap();
            assert_eq!(query(&b, "10.88.0.1", "web", A), found(&["203.0.113.9"]));
        });
    });
}

/// The one server in the pod's resolv.conf is that of its first network.
#[test]
fn the_resolver_of_a_pod_knows_the_names_of_all_its_networks_and_of_no_other() {
    let name = "the_resolver_of_a_pod_knows_the_names_of_all_its_networks_and_of_no_other";
    on_private_host(module_path!(), name, || {
        let dir = tempfile::tempdir().unwrap();
        let outside = outside();
        resolver(&outside);
        let networks = open(dir.path());
        let [web, db, other, of_test, of_prod] = std::array::from_fn(|_| Namespace::new());
        let ask = |networks: &Networks, pod: &Namespace, name: &str, kind| {
            query(pod, &networks.resolver(&pod.id).unwrap().to_string(), name, kind)
        };
        let world = found(&["203.0.113.9"]);
        let check = |networks: &Networks| {
            for name in ["db", "store", "DB.default"] {
                assert_eq!(ask(networks, &web, name, A), found(&["10.1.1.2"]), "{name}");
            }
            let pointer = ask(networks, &web, "2.1.1.10.in-addr.arpa", PTR).unwrap();
            assert_eq!(pointer.1, ["\u{2}db\u{7}default\0"]);
            assert_eq!(ask(networks, &web, "web", A), found(&["10.88.0.2"]), "its first network first");
            assert_eq!(ask(networks, &db, "web", A), found(&["10.1.1.4"]), "by the network of both");
            assert_eq!(ask(networks, &web, "cache.prod", A), found(&["10.1.1.3"]));
            assert_eq!(ask(networks, &web, "cache", A), world, "two namespaces have it");
            // A network that it is not in.
            for name in ["other", "other.default"] {
                assert_eq!(ask(networks, &web, name, A), world, "{name}");
            }
            assert_eq!(ask(networks, &of_test, "db", A), world);
            assert_eq!(ask(networks, &db, "other", A).unwrap().0, 5);
            let pointer = ask(networks, &of_test, "2.1.1.10.in-addr.arpa", PTR).unwrap();
            assert!(!pointer.1.concat().contains("default"), "{pointer:?}");
        };
        block_on(async {
            for (name, subnet) in [("lan", "10.1.1.0/24"), ("dmz", "10.1.2.0/24")] {
                let subnets = vec![subnet.parse().unwrap()];
                networks.create(network(name, subnets, true)).await.unwrap();
            }
            networks.attach(named(&web, "web", "")).await.unwrap();
            networks
                .attach(named(&db, "db", r#"[{"name":"lan","interface":"eth0","aliases":["store"]}]"#))
                .await
                .unwrap();
            networks.attach(named(&other, "other", "dmz@eth0")).await.unwrap();
            for (pod, namespace) in [(&of_test, "test"), (&of_prod, "prod")] {
                let first = if namespace == "test" { "" } else { "lan@eth0" };
                let mut request = named(pod, "cache", first);
                request.namespace = namespace.to_owned();
                networks.attach(request).await.unwrap();
            }
            assert_eq!(ask(&networks, &web, "db", A), world);
            assert_eq!(ask(&networks, &web, "cache", A), found(&["10.88.0.3"]), "that of test");
            let lan = || Connection { network: "lan".to_owned(), ..Connection::default() };
            networks.connect(named(&web, "web", ""), lan()).await.unwrap();
            check(&networks);
            drop(networks);
            let networks = open(dir.path());
            networks.keep_up().await;
            check(&networks);
            networks.disconnect(&web.id, "lan").await.unwrap();
            assert_eq!(ask(&networks, &web, "db", A), world);
        });
    });
}

#[test]
fn names_are_resolved_after_a_restart_and_dead_resolvers_are_an_answer_too() {
    let name = "names_are_resolved_after_a_restart_and_dead_resolvers_are_an_answer_too";
    on_private_host(module_path!(), name, || {
        let dir = tempfile::tempdir().unwrap();
        let _outside = outside();
        // One that refuses, one that does not answer, and our own.
        resolv_conf("nameserver 127.0.0.9\nnameserver 192.0.2.9\nnameserver 10.88.0.1");
        let (a, b) = (Namespace::new(), Namespace::new());
        block_on(async {
            let networks = open(dir.path());
            networks.attach(named(&a, "web", "")).await.unwrap();
            networks.attach(named(&b, "client", "")).await.unwrap();
        });
        let networks = open(dir.path());
        block_on(async {
            networks.keep_up().await;
            assert_eq!(query(&b, "10.88.0.1", "web", A), found(&["10.88.0.2"]));
            assert_eq!(query(&b, "10.88.0.1", "www.example.org", A).unwrap().0, 2);
            // A pod that asks much does not keep others from an answer.
            b.run(|| {
                let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
                (0..2000).for_each(|_| drop(socket.send_to(&question("www.example.org", A), "10.88.0.1:53")));
            });
            // The kernel drops what it has no room for: as every client does, query again.
            let again = |time, name| {
                let ask = || ask_for(time, &a, "10.88.0.1", name, A);
                std::iter::repeat_with(ask).take(80).find(Result::is_ok)
            };
            // Nor from one of the world's, as far as there is any: that is not refused.
            assert_eq!(again(SECOND * 4, "www.example.org").unwrap().unwrap().0, 2);
            assert_eq!(again(SECOND / 10, "client"), Some(found(&["10.88.0.3"])));
            // Nor one that keeps many connections.
            let kept = b.run(|| {
                let address = "10.88.0.1:53".parse().unwrap();
                let connect = || TcpStream::connect_timeout(&address, SECOND).unwrap();
                std::iter::repeat_with(connect).take(64).collect::<Vec<_>>()
            });
            assert_eq!(query_tcp(&a, "10.88.0.1", "client"), (0, vec!["10.88.0.3".to_owned()]));
            drop(kept);
        });
    });
}

/// A resolver that runs on the host, or in a pod with a host port, needs the port of DNS.
#[test]
fn the_port_of_dns_stays_free_for_others() {
    on_private_host(module_path!(), "the_port_of_dns_stays_free_for_others", || {
        let dir = tempfile::tempdir().unwrap();
        let outside = outside();
        let networks = open(dir.path());
        let (a, b, c) = (Namespace::new(), Namespace::new(), Namespace::new());
        block_on(async {
            networks.attach(named(&a, "web", "")).await.unwrap();
            let of_host = UdpSocket::bind("0.0.0.0:53").unwrap();
            assert_eq!(query(&a, "10.88.0.1", "web", A), found(&["10.88.0.2"]));
            drop(of_host);
            let mut request = named(&b, "resolver", "");
            request.port_mappings = vec![port(Protocol::Udp, 53, 53), port(Protocol::Tcp, 53, 53)];
            networks.attach(request).await.unwrap();
            b.run(|| {
                let socket = UdpSocket::bind("0.0.0.0:53").unwrap();
                std::thread::spawn(move || {
                    let mut question = [0; 512];
                    while let Ok((length, from)) = socket.recv_from(&mut question) {
                        let mut answer = question[..length].to_vec();
                        (answer[2], answer[3], answer[7]) = (0x81, 0x80, 1);
                        answer.extend([0xc0, 0x0c, 0, 1, 0, 1, 0, 0, 0, 9, 0, 4, 203, 0, 113, 53]);
                        let _ = socket.send_to(&answer, from);
                    }
                });
            });
            assert_eq!(query(&outside, "192.0.2.1", "web", A), found(&["203.0.113.53"]));
            for server in ["10.88.0.1", "fd88::1"] {
                assert_eq!(query(&a, server, "resolver", A), found(&["10.88.0.3"]), "not the pod's answer");
            }
            assert_eq!(query_tcp(&a, "10.88.0.1", "web"), (0, vec!["10.88.0.2".to_owned()]));
            let mut request = named(&c, "thief", "");
            request.port_mappings = vec![PortMapping {
                host_ip: Some("10.88.0.1".parse().unwrap()),
                ..port(Protocol::Udp, 53, 53)
            }];
            let error = networks.attach(request).await.unwrap_err().to_string();
            assert!(error.contains("names of pods are resolved there"), "{error}");
        });
    });
}

#[test]
fn a_name_is_that_of_the_askers_namespace_and_never_one_of_the_world() {
    let name = "a_name_is_that_of_the_askers_namespace_and_never_one_of_the_world";
    on_private_host(module_path!(), name, || {
        let dir = tempfile::tempdir().unwrap();
        let outside = outside();
        resolver(&outside);
        let networks = open(dir.path());
        let pods: Vec<Namespace> = (0..5).map(|_| Namespace::new()).collect();
        block_on(async {
            let all = [
                ("shop", "db", ""),
                ("test", "db", ""),
                ("test", "registry.example.org", ""),
                ("test", "cache", ""),
                ("other", "client", ""),
            ];
            for (pod, (namespace, name, networks_of)) in pods.iter().zip(all) {
                let mut request = named(pod, name, networks_of);
                request.namespace = namespace.to_owned();
                networks.attach(request).await.unwrap();
            }
            let query = |pod: usize, name: &str| query(&pods[pod], "10.88.0.1", name, A);
            assert_eq!(query(0, "db"), found(&["10.88.0.2"]));
            assert_eq!(query(1, "db"), found(&["10.88.0.3"]));
            assert_eq!(query(0, "db.test"), found(&["10.88.0.3"]));
            assert_eq!(query(0, "cache"), found(&["10.88.0.5"]), "one namespace has it");
            assert_eq!(query(4, "db"), found(&["203.0.113.9"]), "two have it: none is meant");
            assert_eq!(query(1, "registry.example.org"), found(&["10.88.0.4"]));
            assert_eq!(query(0, "registry.example.org"), found(&["203.0.113.9"]));
        });
    });
}

/// Names that no network knows, where the host's resolvers are the gateways themselves.
#[test]
fn a_question_does_not_go_in_circles() {
    on_private_host(module_path!(), "a_question_does_not_go_in_circles", || {
        let dir = tempfile::tempdir().unwrap();
        let _outside = outside();
        resolv_conf("nameserver 10.88.0.1\nnameserver 10.1.1.1");
        let networks = open(dir.path());
        let (a, b) = (Namespace::new(), Namespace::new());
        block_on(async {
            networks.create(network("lan", vec!["10.1.1.0/24".parse().unwrap()], false)).await.unwrap();
            networks.attach(named(&a, "web", "")).await.unwrap();
            networks.attach(named(&b, "inside", "lan@eth0")).await.unwrap();
            let before = datagrams_to_the_host();
            assert_eq!(query(&a, "10.88.0.1", "www.example.org", A).unwrap().0, 2);
            assert_eq!(datagrams_to_the_host(), before + 1, "it was forwarded to a gateway");
            // A resolver of the host that asks here what it was asked from here.
            let question = question("www.example.org", A);
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            socket.set_read_timeout(Some(SECOND)).unwrap();
            socket.send_to(&question, "10.88.0.1:53").unwrap();
            let mut answer = [0; 512];
            let length = socket.recv(&mut answer).unwrap();
            assert_eq!(read(&answer[..length], &question).0, 5);
        });
    });
}
