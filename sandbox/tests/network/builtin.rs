//! The built-in network on a private host: real bridge, veths and packet rules.

use std::slice::from_ref;

use crisp_executor::ids::PodId;
use crisp_sandbox::network::{NetworkConfig, Networks, Protocol};

use crate::support::CollectGarbage as _;
use crate::support::{
    Namespace, ask, ask_from, block_on, config, ip, on_private_host, outside, port, sh,
    tell_callers_who_they_are, tell_callers_who_they_are_on_host, traces,
};

#[test]
fn pods_reach_each_other_the_host_and_the_outside() {
    on_private_host(module_path!(), "pods_reach_each_other_the_host_and_the_outside", || {
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
            tell_callers_who_they_are_on_host(9090);
            let (v4, v6) = (ask_from(&a, "10.88.0.1:9090"), ask_from(&a, "[fd88::1]:9090"));
            assert_eq!((v4.unwrap(), v6.unwrap()), ("10.88.0.2".to_owned(), "fd88::2".to_owned()));
            // The outside has no route to pods: only a masqueraded packet gets its answer.
            assert_eq!(ask_from(&a, "192.0.2.2:80").unwrap(), "192.0.2.1");
            assert_eq!(b.sh("cat /proc/net/dev | grep -c lo:").trim(), "1");
            let counters = a.netlink.all_counters().unwrap();
            let [(name, eth0)] = &counters[..] else { panic!("{counters:?}") };
            assert!(name == "eth0" && eth0.rx_bytes > 100 && eth0.tx_packets > 4, "{counters:?}");
            assert_eq!(sh("cat /proc/sys/net/ipv4/ip_forward").trim(), "1");
            let status = networks.status();
            assert!(status.ready, "{status:?}");
            assert_eq!(
                status.message,
                "built-in network on bridge crisp0, addresses from 10.88.0.0/16 and fd88::/64"
            );
        });
    });
}

#[test]
fn a_pool_that_the_host_uses_is_refused_or_passed_over() {
    on_private_host(module_path!(), "a_pool_that_the_host_uses_is_refused_or_passed_over", || {
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
            "pod address pool 10.88.0.0/16 overlaps the host's route 10.88.7.0/24 on lan0: set pod-cidr to a network the host does not use"
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
    on_private_host(
        module_path!(),
        "a_restarted_server_knows_its_pods_and_two_servers_live_side_by_side",
        || {
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
                    error.contains(
                        "interface crisp0 exists and belongs to the server with its network state in"
                    ),
                    "{error}"
                );
                let other = NetworkConfig {
                    bridge_name: "crisp1".to_owned(),
                    pod_cidrs: "auto".parse().unwrap(),
                    pod_cidrs_v6: "auto".parse().unwrap(),
                    ..config(other_dir.path())
                };
                let other = Networks::open(&other).unwrap();
                assert_eq!(ip(&c.attach(&other, &[]).await.unwrap()), "10.89.0.2");

                other.close_if_unused().await.unwrap();
                assert!(sh("ip link").contains("crisp1"), "closed under a pod");
                other.detach(&c.id).await.unwrap();
                other.close_if_unused().await.unwrap();
                assert_eq!(networks.collect_garbage(from_ref(&b.id)).await.unwrap(), from_ref(&a.id));
                assert!(ask("127.0.0.1:8080").is_err());
                networks.detach(&b.id).await.unwrap();
                networks.detach(&b.id).await.unwrap();
                networks.detach(&PodId::random()).await.unwrap();
                networks.close_if_unused().await.unwrap();
            });
            assert_eq!(traces(), before);
        },
    );
}

#[test]
fn a_pod_whose_record_is_lost_keeps_its_address() {
    on_private_host(module_path!(), "a_pod_whose_record_is_lost_keeps_its_address", || {
        let dir = tempfile::tempdir().unwrap();
        let (a, b, c) = (Namespace::new(), Namespace::new(), Namespace::new());
        block_on(async {
            let networks = Networks::open(&config(dir.path())).unwrap();
            a.attach(&networks, &[]).await.unwrap();
            b.attach(&networks, &[]).await.unwrap();
            drop(networks);
            let record = |pod: &Namespace| dir.path().join(format!("state/pods/{}.json", pod.id));
            std::fs::write(record(&a), "{").unwrap();
            std::fs::remove_file(record(&b)).unwrap();
            let networks = Networks::open(&config(dir.path())).unwrap();
            let on_c = c.attach(&networks, &[]).await.unwrap();
            assert_eq!(ip(&on_c), "10.88.0.4");
            tell_callers_who_they_are(&a, 80);
            assert_eq!(ask_from(&c, "10.88.0.2:80").unwrap(), "10.88.0.4");
        });
    });
}

#[test]
fn a_failed_attach_leaves_nothing() {
    on_private_host(module_path!(), "a_failed_attach_leaves_nothing", || {
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
    on_private_host(module_path!(), "flushed_rules_and_a_deleted_bridge_come_back_with_the_next_pod", || {
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
            let command = "iptables -I FORWARD -i crisp0 -j ACCEPT && iptables -I FORWARD -o crisp0 -m conntrack --ctstate RELATED,ESTABLISHED,DNAT -j ACCEPT";
            let expected = format!(
                "iptables's chain FORWARD drops forwarded packets that it does not know; run: {command}"
            );
            assert!(message.ends_with(&expected), "{message}");
        });
    });
}

#[test]
fn eight_at_a_time_for_a_hundred_pods() {
    on_private_host(module_path!(), "eight_at_a_time_for_a_hundred_pods", || {
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
        });
        block_on(async {
            networks.close_if_unused().await.unwrap();
        });
        assert_eq!(traces(), before);
        let records = std::fs::read_dir(dir.path().join("state/pods")).unwrap().count();
        assert_eq!(records, 0);
    });
}

#[test]
fn changed_settings_wait_for_the_pods_of_the_old_ones() {
    on_private_host(module_path!(), "changed_settings_wait_for_the_pods_of_the_old_ones", || {
        let dir = tempfile::tempdir().unwrap();
        let before = traces();
        let (a, b, c) = (Namespace::new(), Namespace::new(), Namespace::new());
        block_on(async {
            let networks = Networks::open(&config(dir.path())).unwrap();
            a.attach(&networks, &[]).await.unwrap();
            drop(networks);
            let changed = NetworkConfig {
                bridge_name: "pods0".to_owned(),
                pod_cidrs: "172.30.0.0/24".parse().unwrap(),
                ..config(dir.path())
            };
            let networks = Networks::open(&changed).unwrap();
            assert_eq!(ip(&b.attach(&networks, &[]).await.unwrap()), "10.88.0.3");
            networks.detach(&a.id).await.unwrap();
            networks.detach(&b.id).await.unwrap();
            assert_eq!(ip(&c.attach(&networks, &[]).await.unwrap()), "172.30.0.2");
            assert!(!sh("ip -o link; nft list tables").contains("crisp0"), "the old bridge is left over");
            networks.detach(&c.id).await.unwrap();
            networks.close_if_unused().await.unwrap();
        });
        assert_eq!(traces(), before);
    });
}

#[test]
fn a_bridge_of_another_program_is_left_alone() {
    on_private_host(module_path!(), "a_bridge_of_another_program_is_left_alone", || {
        let dir = tempfile::tempdir().unwrap();
        let networks = Networks::open(&config(dir.path())).unwrap();
        let pod = Namespace::new();
        for (make, why) in [
            ("ip link add crisp0 type bridge", "was made by another program"),
            ("ip link add crisp0 type veth peer name v1", "is not a bridge"),
        ] {
            sh(make);
            let error = block_on(pod.attach(&networks, &[])).unwrap_err().to_string();
            let expected =
                format!("interface crisp0 exists and {why}: set bridge-name to another name or delete it");
            assert_eq!(error, expected);
            let status = networks.status();
            assert_eq!((status.reason.as_str(), status.message), ("BridgeTaken", expected));
            block_on(networks.close_if_unused()).unwrap_err();
            sh("ip link del crisp0");
        }
        block_on(pod.attach(&networks, &[])).unwrap();
    });
}

#[test]
fn what_a_killed_server_left_is_taken_away_by_the_next() {
    on_private_host(module_path!(), "what_a_killed_server_left_is_taken_away_by_the_next", || {
        let dir = tempfile::tempdir().unwrap();
        let before = traces();
        let (a, b) = (Namespace::new(), Namespace::new());
        block_on(async {
            let networks = Networks::open(&config(dir.path())).unwrap();
            a.attach(&networks, &[port(Protocol::Tcp, 8080, 80)]).await.unwrap();
            b.attach(&networks, &[]).await.unwrap();
            drop(networks);
            // Killed after the record and before the interface; and half of a record.
            sh(&format!("ip link del cr{}", &a.id.as_str()[..11]));
            let half = PodId::random();
            std::fs::write(dir.path().join(format!("state/pods/{half}.json")), "{\"version\":1,").unwrap();
            let networks = Networks::open(&config(dir.path())).unwrap();
            let mut gone = networks.collect_garbage(&[]).await.unwrap();
            gone.sort();
            let mut both = [a.id.clone(), b.id.clone()];
            both.sort();
            assert_eq!(gone, both);
            networks.close_if_unused().await.unwrap();
        });
        assert_eq!(traces(), before);
    });
}

#[test]
fn settings_that_cannot_work_are_refused_at_start() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["", "a/b", "..", "sixteen-letters-", "br.1"] {
        let config = NetworkConfig { bridge_name: name.to_owned(), ..config(dir.path()) };
        let error = Networks::open(&config).unwrap_err().to_string();
        assert!(error.starts_with(&format!("bridge-name {name:?} is not usable")), "{error}");
    }
}

#[test]
fn a_pod_for_which_the_pool_has_no_address_leaves_nothing_and_gets_one_after_another_has_left() {
    let name = "a_pod_for_which_the_pool_has_no_address_leaves_nothing_and_gets_one_after_another_has_left";
    on_private_host(module_path!(), name, || {
        let dir = tempfile::tempdir().unwrap();
        let small = NetworkConfig { pod_cidrs: "10.88.0.0/29".parse().unwrap(), ..config(dir.path()) };
        let networks = Networks::open(&small).unwrap();
        let pods: Vec<Namespace> = (0..6).map(|_| Namespace::new()).collect();
        let Some((last, others)) = pods.split_last() else { unreachable!() };
        block_on(async {
            for pod in others {
                pod.attach(&networks, &[]).await.unwrap();
            }
            let before = traces();
            let ports = [port(Protocol::Tcp, 8080, 80)];
            let error = last.attach(&networks, &ports).await.unwrap_err().to_string();
            assert!(error.starts_with("no free address in 10.88.0.0/29"), "{error}");
            assert!(error.contains("5 in use; set pod-cidr to a larger network"), "{error}");
            assert_eq!((traces(), networks.recorded().len()), (before, 5));
            std::net::TcpListener::bind("127.0.0.1:8080").expect("its port is free again");
            // Its address is released with its interface, some time after the detach: the next pod does not
            // have to wait for that.
            networks.detach(&others[2].id).await.unwrap();
            assert_eq!(ip(&last.attach(&networks, &ports).await.unwrap()), "10.88.0.4");
        });
    });
}
