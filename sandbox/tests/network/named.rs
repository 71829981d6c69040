//! Networks that are made by name.

use std::time::Duration;

use crisp_sandbox::network::{
    AttachRequest, Connection, ManageError, NETWORKS_ANNOTATION, NetworkConfig, NetworkError, NetworkKind,
    Networks, NewNetwork, Protocol,
};

use crate::plugins::{TWO, write_config};
use crate::support::CollectGarbage as _;
use crate::support::{
    Namespace, ask, ask_from, block_on, config, on_private_host, outside, port, sh,
    tell_callers_who_they_are, traces,
};

pub fn new(name: &str, subnets: &[&str]) -> NewNetwork {
    NewNetwork {
        name: name.to_owned(),
        subnets: subnets.iter().map(|subnet| subnet.parse().unwrap()).collect(),
        ipv6: true,
        mtu: None,
        internal: false,
        icc: true,
        masquerade_except: Default::default(),
        addresses: Default::default(),
        labels: Default::default(),
    }
}

fn lan() -> NewNetwork {
    new("lan", &["10.1.1.0/24", "fd01::/64"])
}

pub fn open(dir: &std::path::Path) -> Networks {
    let config = NetworkConfig { kind: NetworkKind::BuiltIn, ..config(dir) };
    Networks::open(&config).unwrap()
}

fn in_networks(pod: &Namespace, networks: &str) -> AttachRequest {
    let mut request = pod.request(&[]);
    request.annotations.insert(NETWORKS_ANNOTATION.to_owned(), networks.to_owned());
    request
}

pub async fn join(pod: &Namespace, networks: &Networks, names: &str) -> Vec<String> {
    let attached = networks.attach(in_networks(pod, names)).await.unwrap();
    attached.ips.iter().map(ToString::to_string).collect()
}

/// From inside, with little patience: what is dropped is not refused.
fn reaches(pod: &Namespace, address: &str) -> bool {
    let address = address.parse().unwrap();
    pod.run(move || std::net::TcpStream::connect_timeout(&address, Duration::from_millis(300)).is_ok())
}

#[test]
fn networks_are_isolated_from_each_other_and_what_is_published_is_not() {
    let name = "networks_are_isolated_from_each_other_and_what_is_published_is_not";
    on_private_host(module_path!(), name, || {
        let dir = tempfile::tempdir().unwrap();
        let outside = outside();
        tell_callers_who_they_are(&outside, 80);
        let networks = open(dir.path());
        let (a, b, c, d) = (Namespace::new(), Namespace::new(), Namespace::new(), Namespace::new());
        block_on(async {
            networks.create(lan()).await.unwrap();
            networks.create(new("other", &["10.1.2.0/24", "fd02::/64"])).await.unwrap();
            assert_eq!(join(&a, &networks, "lan@eth0").await, ["10.1.1.2", "fd01::2"]);
            assert_eq!(join(&b, &networks, "lan@eth0").await, ["10.1.1.3", "fd01::3"]);
            let mut request = in_networks(&c, "other@eth0");
            request.port_mappings = vec![port(Protocol::Tcp, 8080, 80)];
            networks.attach(request).await.unwrap();
            d.attach(&networks, &[]).await.unwrap();
            for pod in [&a, &c, &d] {
                tell_callers_who_they_are(pod, 80);
            }
            assert_eq!(ask_from(&b, "10.1.1.2:80").unwrap(), "10.1.1.3");
            assert_eq!(ask_from(&b, "[fd01::2]:80").unwrap(), "fd01::3");
            for (pod, address) in [
                (&a, "10.1.2.2:80"),
                (&a, "[fd02::2]:80"),
                (&a, "10.88.0.2:80"),
                (&c, "10.1.1.2:80"),
                (&d, "10.1.1.2:80"),
                (&d, "[fd01::2]:80"),
            ] {
                assert!(!reaches(pod, address), "{address} is reached from another network");
            }
            // The host, the outside, and what another network has published.
            assert_eq!(ask("10.1.1.2:80").unwrap(), "10.1.1.1");
            assert_eq!(ask_from(&a, "192.0.2.2:80").unwrap(), "192.0.2.1");
            assert_eq!(ask_from(&a, "[2001:db8::2]:80").unwrap(), "2001:db8::1");
            assert_eq!(ask_from(&a, "192.0.2.1:8080").unwrap(), "10.1.2.1");
            assert_eq!(ask_from(&outside, "192.0.2.1:8080").unwrap(), "192.0.2.2");
            // Of the other for the answers.
            sh("nft flush chain ip crisp-cr-lan forward; nft flush chain ip crisp-cr-other forward");
            assert!(
                reaches(&c, "10.1.1.2:80"),
                "it is not reached without the rule either: the test shows nothing"
            );
        });
    });
}

#[test]
fn an_internal_network_has_no_way_out_and_none_in() {
    on_private_host(module_path!(), "an_internal_network_has_no_way_out_and_none_in", || {
        let dir = tempfile::tempdir().unwrap();
        let outside = outside();
        tell_callers_who_they_are(&outside, 80);
        let networks = open(dir.path());
        let (a, b) = (Namespace::new(), Namespace::new());
        block_on(async {
            networks.create(NewNetwork { internal: true, ..lan() }).await.unwrap();
            join(&a, &networks, "lan@eth0").await;
            join(&b, &networks, "lan@eth0").await;
            tell_callers_who_they_are(&a, 80);
            assert_eq!(ask_from(&b, "10.1.1.2:80").unwrap(), "10.1.1.3");
            assert_eq!(ask("10.1.1.2:80").unwrap(), "10.1.1.1");
            assert_eq!(a.sh("ip route | grep -c default || true").trim(), "0");
            // What a pod with NET_ADMIN can do, and a neighbour of the host.
            sh("echo 1 >/proc/sys/net/ipv4/ip_forward");
            a.sh("ip route add default via 10.1.1.1");
            outside.sh("ip route add 10.1.1.0/24 via 192.0.2.1");
            assert!(!reaches(&a, "192.0.2.2:80") && !reaches(&outside, "10.1.1.2:80"));
            let c = Namespace::new();
            let mut request = in_networks(&c, "lan@eth0");
            request.port_mappings = vec![port(Protocol::Tcp, 8080, 80)];
            let error = networks.attach(request).await.unwrap_err().to_string();
            assert_eq!(error, "host port 8080/tcp: the pod's network is internal: nothing leads into it");
        });
    });
}

#[test]
fn pods_of_a_network_without_icc_reach_the_outside_but_not_each_other() {
    let name = "pods_of_a_network_without_icc_reach_the_outside_but_not_each_other";
    on_private_host(module_path!(), name, || {
        let dir = tempfile::tempdir().unwrap();
        let outside = outside();
        tell_callers_who_they_are(&outside, 80);
        let networks = open(dir.path());
        let (a, b) = (Namespace::new(), Namespace::new());
        block_on(async {
            networks.create(NewNetwork { icc: false, ..lan() }).await.unwrap();
            let mut request = in_networks(&a, "lan@eth0");
            request.port_mappings = vec![port(Protocol::Tcp, 8080, 80)];
            networks.attach(request).await.unwrap();
            join(&b, &networks, "lan@eth0").await;
            tell_callers_who_they_are(&a, 80);
            assert_eq!(ask_from(&b, "192.0.2.2:80").unwrap(), "192.0.2.1");
            assert_eq!(ask("10.1.1.2:80").unwrap(), "10.1.1.1");
            assert!(!reaches(&b, "10.1.1.2:80"));
            // By the host, which a pod with NET_ADMIN can ask to.
            b.sh("ip route add 10.1.1.2/32 via 10.1.1.1 dev eth0 onlink");
            assert!(!reaches(&b, "10.1.1.2:80"));
            // What is published is for everyone, unless the kernel treats what the host sends on as bridged.
            sh(
                "! [ -e /proc/sys/net/bridge/bridge-nf-call-iptables ] || echo 0 >/proc/sys/net/bridge/bridge-nf-call-iptables",
            );
            assert_eq!(ask_from(&b, "192.0.2.1:8080").unwrap(), "10.1.1.1");
            // Ports of a bridge that is made anew are ports of one as it was.
            assert_eq!(sh("bridge -d link show").matches("isolated on").count(), 2);
            sh("ip link del cr-lan");
            networks.keep_up().await;
            assert_eq!(sh("bridge -d link show").matches("isolated on").count(), 2);
            assert!(!reaches(&b, "10.1.1.2:80"));
        });
    });
}

#[test]
fn the_rules_of_a_network_go_with_it_also_without_its_bridge() {
    on_private_host(module_path!(), "the_rules_of_a_network_go_with_it_also_without_its_bridge", || {
        let dir = tempfile::tempdir().unwrap();
        let pod = Namespace::new();
        block_on(async {
            let networks = open(dir.path());
            networks.create(lan()).await.unwrap();
            join(&pod, &networks, "lan@eth0").await;
            networks.detach(&pod.id).await.unwrap();
            let tables = || sh("nft list tables | grep crisp-cr-lan || true");
            assert_eq!(tables().lines().count(), 2, "{}", tables());
            // A person deletes the bridge, and the server is started again.
            sh("ip link del cr-lan");
            drop(networks);
            let networks = open(dir.path());
            networks.remove("lan".to_owned()).await.unwrap();
            assert_eq!(tables(), "");
        });
    });
}

#[test]
fn a_pod_gets_the_address_and_interface_that_it_asks_for() {
    on_private_host(module_path!(), "a_pod_gets_the_address_and_interface_that_it_asks_for", || {
        let dir = tempfile::tempdir().unwrap();
        let networks = open(dir.path());
        let (a, b, c) = (Namespace::new(), Namespace::new(), Namespace::new());
        block_on(async {
            networks.create(NewNetwork { mtu: Some(1400), ..lan() }).await.unwrap();
            let annotation =
                r#"[{"name":"lan","interface":"lan0","ips":["10.1.1.7/24"],"mac":"02:00:00:00:00:07"}]"#;
            assert_eq!(join(&a, &networks, annotation).await, ["10.88.0.2", "fd88::2"]);
            let all = networks.attachments(&a.id);
            let seen: Vec<_> = all.iter().map(|at| (at.network.as_str(), at.interface.as_str())).collect();
            assert_eq!(seen, [("default", "eth0"), ("lan", "lan0")]);
            assert_eq!(all[1].mac.as_deref(), Some("02:00:00:00:00:07"));
            let link = a.sh("ip addr show lan0");
            assert!(
                link.contains("mtu 1400") && link.contains("10.1.1.7/24") && link.contains("fd01::7/64"),
                "{link}"
            );
            assert_eq!(a.sh("ip route | grep -c default").trim(), "1");
            // By its IPv6 address, from a pod with the network as its first.
            tell_callers_who_they_are(&a, 80);
            let annotation = r#"[{"name":"lan","interface":"eth0","ips":["fd01::9"]}]"#;
            assert_eq!(join(&b, &networks, annotation).await, ["10.1.1.9", "fd01::9"]);
            assert_eq!(ask_from(&b, "10.1.1.7:80").unwrap(), "10.1.1.9");
            let of_gateway = sh("ip link show cr-lan | awk '/link.ether/ {print $2}'");
            let of_gateway = format!(r#"[{{"name":"lan","mac":"{}"}}]"#, of_gateway.trim());
            for (annotation, why) in [
                (
                    r#"[{"name":"lan","mac":"02:00:00:00:00:07"}]"#,
                    format!("02:00:00:00:00:07 is in use by pod default/web ({})", a.id.short()),
                ),
                (&of_gateway, "it is that of the network's gateway".to_owned()),
                (
                    r#"[{"name":"lan","mac":"0a:58:0a:01:01:09"}]"#,
                    "is for the pod that has, and asks for, that address".to_owned(),
                ),
                (
                    r#"[{"name":"lan","mac":"0e:58:0a:01:01:09"}]"#,
                    "0e:58 is for the host's ends of interfaces".to_owned(),
                ),
                (r#"[{"name":"lan","mac":"00:00:00:00:00:00"}]"#, "it is that of no interface".to_owned()),
                (
                    r#"[{"name":"lan","ips":["10.1.1.7"]}]"#,
                    format!("10.1.1.7 is in use by pod default/web ({})", a.id.short()),
                ),
                (
                    r#"[{"name":"lan","ips":["10.1.2.7"]}]"#,
                    "10.1.2.7 is not an address for a pod in 10.1.1.0/24 and fd01::/64".to_owned(),
                ),
                (
                    r#"[{"name":"lan","ips":["10.1.1.8","fd01::7"]}]"#,
                    "the pod with fd01::7 has 10.1.1.7 as well".to_owned(),
                ),
                (
                    r#"[{"name":"lan","cni-args":{"a":1}}]"#,
                    "knows no infiniband-guid and no cni-args".to_owned(),
                ),
                (r#"[{"name":"lan","mac":"01:00:00:00:00:07"}]"#, "it is that of a group".to_owned()),
                ("lan,lan", "a pod is in a built-in network once at most".to_owned()),
                ("default", "a pod is in a built-in network once at most".to_owned()),
            ] {
                let error = networks.attach(in_networks(&c, annotation)).await.unwrap_err().to_string();
                assert!(error.contains(&why), "{annotation}: {error}");
                assert!(networks.attachments(&c.id).is_empty(), "{annotation}");
            }
            drop(networks);
            let networks = open(dir.path());
            assert_eq!(networks.attachments(&a.id), all);
            networks.detach(&a.id).await.unwrap();
            networks.detach(&b.id).await.unwrap();
            networks.close_if_unused().await.unwrap();
        });
        assert!(!sh("ip link").contains("cr-lan") && !sh("nft list tables").contains("crisp"));
    });
}

#[test]
fn networks_are_kept_until_they_are_removed() {
    on_private_host(module_path!(), "networks_are_kept_until_they_are_removed", || {
        let dir = tempfile::tempdir().unwrap();
        let before = traces();
        let pod = Namespace::new();
        write_config(dir.path(), "10.conflist", TWO);
        block_on(async {
            let networks = open(dir.path());
            let made = networks.create(lan()).await.unwrap();
            assert_eq!((made.name.as_str(), made.bridge.as_deref()), ("lan", Some("cr-lan")));
            let long = networks.create(new("a-network-with-a-long.name", &[])).await.unwrap();
            assert_eq!(long.bridge.unwrap().len(), 15);
            join(&pod, &networks, "lan@eth0").await;
            drop(networks);
            let networks = open(dir.path());
            let listed = networks.list().await.unwrap();
            let names: Vec<_> = listed.iter().map(|network| network.name.as_str()).collect();
            assert_eq!(names, ["default", "a-network-with-a-long.name", "lan", "two"]);
            assert!(listed[0].is_first && listed[3].file.as_deref().unwrap().ends_with("10.conflist"));
            let [member] = &listed[2].members[..] else { panic!("{listed:?}") };
            assert_eq!((&member.pod, member.interface.as_str(), member.ips.len()), (&pod.id, "eth0", 2));
            // In use.
            let error = networks.remove("lan".to_owned()).await.unwrap_err();
            let expected = format!(
                "network lan is in use by pod default/web ({}): remove these pods first",
                pod.id.short()
            );
            assert!(matches!(error, ManageError::InUse { .. }) && error.to_string() == expected, "{error}");
            assert_eq!(networks.prune().await.unwrap(), ["a-network-with-a-long.name"]);
            for (name, why) in [
                ("default", "it is that of the settings"),
                ("two", "delete its file"),
                ("none", "network none cannot be removed"),
                ("gone", "there is no network gone"),
            ] {
                let error = networks.remove(name.to_owned()).await.unwrap_err().to_string();
                assert!(error.contains(why), "{error}");
            }
            // What another program has removed comes back.
            sh("nft flush ruleset; ip link del cr-lan");
            networks.keep_up().await;
            assert!(sh("nft list tables").contains("crisp-cr-lan"));
            assert_eq!(networks.collect_garbage(&[]).await.unwrap(), std::slice::from_ref(&pod.id));
            networks.remove("lan".to_owned()).await.unwrap();
            assert!(matches!(networks.remove("lan".to_owned()).await, Err(ManageError::Unknown(_))));
            let error = networks.attach(in_networks(&pod, "lan")).await.unwrap_err();
            assert!(matches!(error, NetworkError::Selection { .. }), "{error}");
            networks.close_if_unused().await.unwrap();
        });
        assert_eq!(traces(), before);
        assert_eq!(
            sh(&format!("ls {0}/root/networks {0}/state/named | grep -v :", dir.path().display())).trim(),
            ""
        );
    });
}

#[test]
fn a_network_that_cannot_be_opened_costs_the_others_nothing() {
    on_private_host(module_path!(), "a_network_that_cannot_be_opened_costs_the_others_nothing", || {
        let dir = tempfile::tempdir().unwrap();
        block_on(open(dir.path()).create(lan())).unwrap();
        let file = dir.path().join("root/networks/lan.json");
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(text.contains("cr-lan"));
        std::fs::write(&file, text.replace("cr-lan", "cr-a-name-beyond-what-an-interface-has")).unwrap();
        let networks = open(dir.path());
        let pod = Namespace::new();
        block_on(async {
            join(&pod, &networks, "default@eth0").await;
            let error = networks.attach(in_networks(&Namespace::new(), "lan@eth0")).await.unwrap_err();
            assert!(matches!(error, NetworkError::Selection { .. }), "{error}");
        });
        assert!(file.exists(), "it is for people to mend");
    });
}

#[test]
fn networks_that_cannot_be_are_refused_by_name() {
    on_private_host(module_path!(), "networks_that_cannot_be_are_refused_by_name", || {
        let dir = tempfile::tempdir().unwrap();
        write_config(dir.path(), "10.conflist", TWO);
        sh(
            "ip link add lan0 type veth peer name lan1 && ip link set lan0 up && ip route add 10.2.0.0/16 dev lan0",
        );
        let networks = open(dir.path());
        block_on(networks.create(lan())).unwrap();
        for (new, why) in [
            (new("-x", &[]), "name: \"-x\" is not a network name"),
            (new("host", &[]), "name: \"host\" has a meaning of its own"),
            (new("lan", &[]), "network lan exists: remove it first"),
            (new("two", &[]), "network two exists: it is that of "),
            (new("x", &["10.1.1.128/25"]), "subnet: 10.1.1.128/25 overlaps that of network lan"),
            (new("x", &["10.88.1.0/24"]), "subnet: 10.88.1.0/24 overlaps that of network default"),
            (new("x", &["fd01::/48"]), "subnet: fd01::/48 overlaps that of network lan"),
            (new("x", &["10.3.0.0/24", "10.4.0.0/24"]), "subnet: 10.4.0.0/24 is the second of its family"),
            (new("x", &["10.3.0.1/24"]), "write 10.3.0.0/24"),
            (
                new("x", &["10.2.3.0/24"]),
                "pod address pool 10.2.3.0/24 overlaps the host's route 10.2.0.0/16 on lan0: set --subnet to",
            ),
            (NewNetwork { mtu: Some(1000), ..new("x", &[]) }, "mtu: 1000 is not 1280 to 65535"),
        ] {
            let error = block_on(networks.create(new)).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
        // The pool of the settings may not be one of them.
        block_on(networks.create(new("auto", &["10.91.0.0/16"]))).unwrap();
        let auto = NetworkConfig {
            kind: NetworkKind::BuiltIn,
            pod_cidrs: "10.91.0.0/16,10.92.0.0/16".parse().unwrap(),
            ..config(dir.path())
        };
        let status = Networks::open(&auto).unwrap().status().message;
        assert!(status.ends_with("addresses from 10.92.0.0/16 and fd88::/64"), "{status}");
        block_on(networks.remove("auto".to_owned())).unwrap();
        // Without IPv6, and with pools that are free.
        let made =
            block_on(networks.create(NewNetwork { ipv6: false, mtu: Some(1000), ..new("x", &[]) })).unwrap();
        assert_eq!((made.subnets.len(), made.subnets[0].to_string()), (1, "10.89.0.0/16".to_owned()));
        sh("echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6");
        let made = block_on(networks.create(new("y", &[]))).unwrap();
        assert_eq!(made.subnets[0].to_string(), "10.90.0.0/16");
        assert_eq!(made.subnets.len(), 1);
        let names: Vec<String> =
            block_on(networks.list()).unwrap().into_iter().map(|network| network.name).collect();
        assert_eq!(names, ["default", "lan", "x", "y", "two"]);
    });
}

#[test]
fn a_pod_joins_and_leaves_a_network_while_it_runs() {
    on_private_host(module_path!(), "a_pod_joins_and_leaves_a_network_while_it_runs", || {
        let dir = tempfile::tempdir().unwrap();
        write_config(dir.path(), "10.conflist", TWO);
        let networks = open(dir.path());
        let (a, b, c) = (Namespace::new(), Namespace::new(), Namespace::new());
        let lan_at = |ips: &[&str]| Connection {
            network: "lan".to_owned(),
            ips: ips.iter().map(|ip| (*ip).to_owned()).collect(),
            ..Connection::default()
        };
        block_on(async {
            networks.create(lan()).await.unwrap();
            networks.create(new("other", &["10.1.2.0/24"])).await.unwrap();
            a.attach(&networks, &[port(Protocol::Tcp, 8080, 80)]).await.unwrap();
            join(&b, &networks, "lan@eth0").await;
            let on = networks.connect(a.request(&[]), lan_at(&["10.1.1.7"])).await.unwrap();
            assert_eq!((on.interface.as_str(), on.ips[0].to_string().as_str()), ("net1", "10.1.1.7"));
            tell_callers_who_they_are(&a, 80);
            assert_eq!(ask_from(&b, "10.1.1.7:80").unwrap(), "10.1.1.2");
            assert_eq!(ask("127.0.0.1:8080").unwrap(), "10.88.0.1");
            assert_eq!(a.sh("ip route | grep -c default").trim(), "1");
            let to = |network: &str, interface: &str| Connection {
                network: network.to_owned(),
                interface: interface.to_owned(),
                ..Connection::default()
            };
            for (pod, connection, why) in [
                (&a, lan_at(&[]), "and network lan: the pod is in it already"),
                (&a, to("none", ""), "there is no network none"),
                (&a, to("two", ""), "and network two: pods join a CNI network when they are made"),
                (&a, to("other", "net1"), "interface: the pod has net1 already"),
                (&a, to("other", "a/b"), "connection: \"a/b\" is not an interface name"),
                (
                    &b,
                    Connection { ips: vec!["10.1.1.9".to_owned()], ..to("other", "") },
                    "10.1.1.9 is not an address",
                ),
                (&c, lan_at(&[]), "and network lan: the pod has no network of its own"),
            ] {
                let before = networks.attachments(&pod.id);
                let error = networks.connect(pod.request(&[]), connection).await.unwrap_err().to_string();
                assert!(error.contains(why), "{error}");
                assert_eq!(networks.attachments(&pod.id), before);
            }
            drop(networks);
            let networks = open(dir.path());
            assert_eq!(networks.attachments(&a.id).len(), 2);
            for (network, why) in [
                ("default", "it is the pod's first network"),
                ("other", "the pod is not in it"),
                ("none", "there is no network none"),
                ("gone", "there is no network gone"),
            ] {
                let error = networks.disconnect(&a.id, network).await.unwrap_err().to_string();
                assert!(error.contains(why), "{error}");
            }
            networks.disconnect(&a.id, "lan").await.unwrap();
            a.sh("for n in $(seq 100); do ip link show net1 2>/dev/null || exit 0; sleep 0.05; done; exit 1");
            assert_eq!(ask("127.0.0.1:8080").unwrap(), "10.88.0.1");
            // Its place is free, and so is its interface.
            let on = networks.connect(a.request(&[]), lan_at(&["10.1.1.7"])).await.unwrap();
            assert_eq!(on.interface, "net1");
            let error = networks.remove("lan".to_owned()).await.unwrap_err();
            assert!(matches!(error, ManageError::InUse { .. }), "{error}");
            networks.detach(&a.id).await.unwrap();
            networks.detach(&b.id).await.unwrap();
            assert_eq!(networks.prune().await.unwrap(), ["lan", "other"]);
            networks.close_if_unused().await.unwrap();
        });
        assert!(!sh("ip link").contains("cr"), "interfaces are left");
    });
}
