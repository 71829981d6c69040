//! CNI beyond one network for one pod: several networks, capabilities, CHECK, VERSION, STATUS, the cache of
//! results, plugins that always fail.

use std::fs;
use std::path::Path;
use std::slice::from_ref;
use std::time::Duration;

use crisp_sandbox::network::{
    AttachRequest, NETWORKS_ANNOTATION, NetworkConfig, NetworkKind, Networks, Protocol,
};

use crate::plugins::{RESULT, TWO, calls, plugin, scripted, two, write_config};
use crate::support::CollectGarbage as _;
use crate::support::{Namespace, ask_twice, block_on, on_private_host, port, sh, tell_callers_who_they_are};

const LAN: &str = r#"{"cniVersion":"1.0.0","name":"lan","plugins":[
    {"type":"lan","capabilities":{"ips":true,"mac":true,"infinibandGUID":true,"aliases":true,"cgroupPath":true}}]}"#;
const ALL: &str = r#"{"cniVersion":"1.0.0","name":"all","type":"first","capabilities":{"portMappings":true,"bandwidth":true,
    "ipRanges":true,"dns":true,"aliases":true,"cgroupPath":true,"mac":false}}"#;

fn request(pod: &Namespace, networks: &str) -> AttachRequest {
    let mut request = pod.request(&[]);
    request.annotations.insert(NETWORKS_ANNOTATION.to_owned(), networks.to_owned());
    request.cgroup = Some("/kubepods/pod1".to_owned());
    request
}

fn lines(dir: &Path) -> Vec<String> {
    fs::read_to_string(dir.join("calls")).unwrap_or_default().lines().map(str::to_owned).collect()
}

#[test]
fn a_pod_joins_the_networks_that_it_names() {
    on_private_host(module_path!(), "a_pod_joins_the_networks_that_it_names", || {
        let dir = tempfile::tempdir().unwrap();
        write_config(dir.path(), "10.conflist", TWO);
        write_config(dir.path(), "20.conflist", LAN);
        for name in ["first", "second"] {
            plugin(dir.path(), name, RESULT);
        }
        plugin(dir.path(), "lan", r#"echo '{"cniVersion":"1.0.0","ips":[{"address":"10.5.0.7/24"}]}'"#);
        let networks = Networks::open(&scripted(dir.path())).unwrap();
        let pod = Namespace::new();
        let asked = r#"[{"name":"lan"},{"name":"lan","interface":"lan0","ips":["10.5.0.7/24"],"mac":"02:00:00:00:00:07",
            "infiniband-guid":"c2:11:22:33:44:55:66:77","aliases":["db"],"cni-args":{"vlan":7}}]"#;
        block_on(async {
            let first = networks.attach(request(&pod, asked)).await.unwrap();
            assert_eq!((first.network.as_str(), first.ips[0].to_string().as_str()), ("two", "10.9.0.7"));
            let all = networks.attachments(&pod.id);
            let seen: Vec<_> = all.iter().map(|a| (a.network.as_str(), a.interface.as_str())).collect();
            assert_eq!(seen, [("two", "eth0"), ("lan", "net1"), ("lan", "lan0")]);
            drop(networks);
            // The next server takes them away in reverse order, with what they were given.
            fs::remove_dir_all(dir.path().join("net.d")).unwrap();
            let networks = Networks::open(&scripted(dir.path())).unwrap();
            assert_eq!(networks.attachments(&pod.id), all);
            networks.detach(&pod.id).await.unwrap();
        });
        let expected = [
            "ADD first",
            "ADD second",
            "ADD lan",
            "ADD lan",
            "DEL lan",
            "DEL lan",
            "DEL second",
            "DEL first",
        ];
        assert_eq!(calls(dir.path()), expected);
        let all = lines(dir.path());
        assert!(
            all[2].contains(" net1 ") && all[3].contains(" lan0 ") && all[4].contains(" lan0 "),
            "{all:#?}"
        );
        for line in [&all[3], &all[4]] {
            for part in [
                r#""ips":["10.5.0.7/24"]"#,
                r#""mac":"02:00:00:00:00:07""#,
                r#""infinibandGUID":"c2:11:22:33:44:55:66:77""#,
                r#""aliases":["web","db"]"#,
                r#""cgroupPath":"/kubepods/pod1""#,
                r#""args":{"cni":{"vlan":7}}"#,
            ] {
                assert!(line.contains(part), "{part}: {line}");
            }
        }
        assert!(!all[2].contains("\"ips\":[\"10") && all[4].contains("10.5.0.7"), "{all:#?}");
    });
}

#[test]
fn networks_that_a_pod_cannot_have_are_refused_before_anything_runs() {
    let name = "networks_that_a_pod_cannot_have_are_refused_before_anything_runs";
    on_private_host(module_path!(), name, || {
        let (dir, networks) = two(RESULT, RESULT);
        let pod = Namespace::new();
        for (asked, why) in [
            (
                "lan",
                "annotation crisp/networks \"lan\": no network that was made has this name, and no usable CNI configuration in ",
            ),
            ("two@eth9,two@eth9", "two networks have the interface eth9"),
            (r#"[{"name":"two","ips":["10.9.0.9"]}]"#, "no plugin of the network has the capability ips"),
            (r#"[{"name":"two","aliases":["db"]}]"#, "no plugin of the network has the capability aliases"),
        ] {
            let error = block_on(networks.attach(request(&pod, asked))).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
        assert_eq!(calls(dir.path()), [""; 0]);
        assert!(networks.attachments(&pod.id).is_empty());
    });
}

#[test]
fn another_network_can_be_the_first_and_the_built_in_one_can_have_others_beside_it() {
    let name = "another_network_can_be_the_first_and_the_built_in_one_can_have_others_beside_it";
    on_private_host(module_path!(), name, || {
        let dir = tempfile::tempdir().unwrap();
        write_config(dir.path(), "20.conflist", LAN);
        plugin(dir.path(), "lan", r#"echo '{"cniVersion":"1.0.0","ips":[{"address":"10.5.0.7/24"}]}'"#);
        let config = NetworkConfig { kind: NetworkKind::BuiltIn, ..scripted(dir.path()) };
        let networks = Networks::open(&config).unwrap();
        let (a, b) = (Namespace::new(), Namespace::new());
        block_on(async {
            let first = networks.attach(request(&a, "lan@eth0")).await.unwrap();
            assert_eq!(first.ips[0].to_string(), "10.5.0.7");
            let first = networks.attach(request(&b, "lan")).await.unwrap();
            assert_eq!((first.network.as_str(), networks.attachments(&b.id).len()), ("default", 2));
            for pod in [&a, &b] {
                networks.detach(&pod.id).await.unwrap();
                assert!(networks.attachments(&pod.id).is_empty());
            }
            // A failure of the second takes the first back.
            plugin(dir.path(), "lan", "[ $CNI_COMMAND = DEL ] || { echo '{\"msg\":\"no cable\"}'; exit 1; }");
            let error = networks.attach(request(&a, "lan")).await.unwrap_err().to_string();
            assert_eq!(error, "CNI plugin \"lan\" (ADD, network \"lan\"): no cable");
            assert!(networks.attachments(&a.id).is_empty());
            networks.close_if_unused().await.unwrap();
        });
        assert!(!sh("ip link").contains("crisp0"));
    });
}

#[test]
fn plugins_get_what_they_ask_for_about_the_first_network() {
    on_private_host(module_path!(), "plugins_get_what_they_ask_for_about_the_first_network", || {
        let dir = tempfile::tempdir().unwrap();
        write_config(dir.path(), "10.conf", ALL);
        plugin(dir.path(), "first", RESULT);
        let networks = Networks::open(&scripted(dir.path())).unwrap();
        let pod = Namespace::new();
        let mut request = pod.request(&[port(Protocol::Sctp, 30053, 53)]);
        request.dns.servers = vec!["10.0.0.10".to_owned()];
        request.cgroup = Some("/kubepods/pod1".to_owned());
        request.annotations.insert("kubernetes.io/egress-bandwidth".to_owned(), "10M".to_owned());
        block_on(async {
            networks.update_pod_cidr("10.244.7.0/24,fd00:7::/64").await.unwrap();
            networks.attach(request).await.unwrap();
            networks.detach(&pod.id).await.unwrap();
        });
        for line in lines(dir.path()) {
            for part in [
                r#""portMappings":[{"containerPort":53,"hostPort":30053,"protocol":"sctp"}]"#,
                r#""bandwidth":{"egressBurst":4294967295,"egressRate":10000000}"#,
                r#""ipRanges":[[{"subnet":"10.244.7.0/24"}],[{"subnet":"fd00:7::/64"}]]"#,
                r#""dns":{"options":[],"searches":[],"servers":["10.0.0.10"]}"#,
                r#""aliases":["web"]"#,
                r#""cgroupPath":"/kubepods/pod1""#,
            ] {
                assert!(line.contains(part), "{part}: {line}");
            }
        }
        assert_eq!(calls(dir.path()), ["ADD first", "DEL first"]);
    });
}

#[test]
fn check_asks_the_plugins_with_the_result_that_they_gave() {
    on_private_host(module_path!(), "check_asks_the_plugins_with_the_result_that_they_gave", || {
        let finds = "[ $CNI_COMMAND != CHECK ] || { echo '{\"msg\":\"the rule is gone\"}'; exit 1; }";
        let (dir, networks) = two(RESULT, &format!("{finds}; {RESULT}"));
        let (pod, other, old) = (Namespace::new(), Namespace::new(), Namespace::new());
        block_on(async {
            pod.attach(&networks, &[]).await.unwrap();
            let error = networks.check(&pod.id).await.unwrap_err().to_string();
            assert_eq!(error, "CNI plugin \"second\" (CHECK, network \"two\"): the rule is gone");
            plugin(dir.path(), "second", RESULT);
            networks.check(&pod.id).await.unwrap();
            let last = lines(dir.path()).pop().unwrap();
            assert!(
                last.starts_with("CHECK second") && last.contains(r#""prevResult":{"cniVersion""#),
                "{last}"
            );
            let count = calls(dir.path()).len();
            // Networks that do not want it, or cannot know it.
            for (text, pod) in [
                (TWO.replace("\"name\"", "\"disableCheck\":true,\"name\""), &other),
                (TWO.replace("1.0.0", "0.3.1"), &old),
            ] {
                write_config(dir.path(), "10.conflist", &text);
                pod.attach(&networks, &[]).await.unwrap();
                networks.check(&pod.id).await.unwrap();
            }
            assert!(calls(dir.path())[count..].iter().all(|call| call.starts_with("ADD")));
        });
    });
}

#[test]
fn a_plugin_that_does_not_speak_the_version_is_named_with_those_it_speaks() {
    let name = "a_plugin_that_does_not_speak_the_version_is_named_with_those_it_speaks";
    on_private_host(module_path!(), name, || {
        let dir = tempfile::tempdir().unwrap();
        write_config(dir.path(), "10.conflist", TWO);
        plugin(dir.path(), "first", RESULT);
        let speaks = |versions: &str| {
            let body = format!(
                "[ $CNI_COMMAND != VERSION ] || {{ echo '{{\"supportedVersions\":[{versions}]}}'; exit; }}; {RESULT}"
            );
            plugin(dir.path(), "second", &body);
        };
        speaks(r#""0.3.1","0.4.0""#);
        let networks = Networks::open(&scripted(dir.path())).unwrap();
        block_on(async {
            networks.retry_plugins().await;
            while networks.status().ready {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            let status = networks.status();
            assert_eq!(status.reason, "CniPluginNotReady");
            let file = dir.path().join("net.d/10.conflist");
            let start = format!(
                "CNI network \"two\" of {} is not ready: CNI plugin \"second\" (VERSION",
                file.display()
            );
            assert!(status.message.starts_with(&start), "{status:?}");
            assert!(status.message.contains("it speaks the versions 0.3.1, 0.4.0, not 1.0.0"), "{status:?}");
            // A configuration in a version that it speaks.
            speaks(r#""0.4.0","1.0.0""#);
            write_config(dir.path(), "10.conflist", &TWO.replace("two", "newer"));
            networks.retry_plugins().await;
            tokio::time::sleep(Duration::from_millis(200)).await;
            assert!(networks.status().ready, "{:?}", networks.status());
        });
    });
}

#[test]
fn results_are_kept_as_libcni_keeps_them() {
    on_private_host(module_path!(), "results_are_kept_as_libcni_keeps_them", || {
        let (dir, networks) = two(RESULT, RESULT);
        let pod = Namespace::new();
        block_on(pod.attach(&networks, &[port(Protocol::Udp, 30053, 53)])).unwrap();
        let path = dir.path().join(format!("cache/results/two-{}-eth0", pod.id));
        let kept: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        assert_eq!(kept["kind"], "cniCacheV1");
        assert_eq!(
            (kept["containerId"].as_str(), kept["ifName"].as_str()),
            (Some(pod.id.as_str()), Some("eth0"))
        );
        assert_eq!(kept["networkName"], "two");
        assert_eq!(kept["cniArgs"][1], serde_json::json!(["K8S_POD_NAMESPACE", "default"]));
        assert_eq!(kept["capabilityArgs"]["portMappings"][0]["hostPort"], 30053);
        assert_eq!(kept["result"]["ips"][0]["address"], "10.9.0.7/24");
        let config = sh(&format!("echo {} | base64 -d", kept["config"].as_str().unwrap()));
        assert!(config.contains(r#""plugins":[{"type":"first"}"#), "{config}");
        block_on(networks.detach(&pod.id)).unwrap();
        assert!(!path.exists());
    });
}

#[test]
fn a_pod_is_not_held_for_ever_by_a_plugin_that_fails_for_ever() {
    on_private_host(module_path!(), "a_pod_is_not_held_for_ever_by_a_plugin_that_fails_for_ever", || {
        let (dir, networks) = two(RESULT, RESULT);
        let (pod, other) = (Namespace::new(), Namespace::new());
        let ports = [port(Protocol::Tcp, 8080, 80)];
        block_on(async {
            pod.attach(&networks, &ports).await.unwrap();
            plugin(dir.path(), "second", "echo the switch is down >&2; exit 1");
            for _ in 0..2 {
                let error = networks.detach(&pod.id).await.unwrap_err().to_string();
                assert!(error.contains("\"second\" (DEL, network \"two\")"), "{error}");
            }
            networks.detach(&pod.id).await.unwrap();
            let status = networks.status();
            let left = format!("not all of pod {} is taken away: CNI plugin \"second\"", pod.id.short());
            assert!(status.ready && status.message.contains(&left), "{status:?}");
            // Its rules may still be there: its port is not given away.
            let error = other.attach(&networks, &ports).await.unwrap_err().to_string();
            assert!(error.contains("in use by pod default/web"), "{error}");
            drop(networks);
            plugin(dir.path(), "second", RESULT);
            let networks = Networks::open(&scripted(dir.path())).unwrap();
            assert_eq!(networks.collect_garbage(&[]).await.unwrap(), from_ref(&pod.id));
            assert!(!networks.status().message.contains("not all of pod"));
            other.attach(&networks, &ports).await.unwrap();
            networks.detach(&other.id).await.unwrap();
        });
        assert_eq!(sh("ls /run/netns"), "");
    });
}

/// A pod with host port 8080 that has been given up: its plugin fails.
async fn given_up(dir: &Path, networks: &Networks) -> Namespace {
    let pod = Namespace::new();
    pod.attach(networks, &[port(Protocol::Tcp, 8080, 80)]).await.unwrap();
    plugin(dir, "second", "echo the switch is down >&2; exit 1");
    for _ in 0..2 {
        networks.detach(&pod.id).await.unwrap_err();
    }
    networks.detach(&pod.id).await.unwrap();
    pod
}

#[test]
fn a_port_is_free_soon_after_its_plugin_works_again() {
    on_private_host(module_path!(), "a_port_is_free_soon_after_its_plugin_works_again", || {
        let (dir, networks) = two(RESULT, RESULT);
        let next = Namespace::new();
        let ports = [port(Protocol::Tcp, 8080, 80)];
        block_on(async {
            let pod = given_up(dir.path(), &networks).await;
            networks.retry_plugins().await;
            plugin(dir.path(), "second", RESULT);
            networks.retry_plugins().await;
            assert!(networks.status().message.contains("not all of pod"), "there is a pause");
            let error = next.attach(&networks, &ports).await.unwrap_err().to_string();
            let why = format!("in use by pod default/web ({}), which is gone, but", pod.id.short());
            assert!(error.contains(&why) && error.contains("the switch is down"), "{error}");
            networks.retry_plugins().await;
            assert!(!networks.status().message.contains("not all of pod"));
            next.attach(&networks, &ports).await.unwrap();
            networks.detach(&next.id).await.unwrap();
        });
    });
}

#[test]
fn rules_come_back_while_a_plugin_hangs() {
    on_private_host(module_path!(), "rules_come_back_while_a_plugin_hangs", || {
        let (dir, networks) = two(RESULT, RESULT);
        let pod = Namespace::new();
        let mut request = pod.request(&[]);
        request.annotations.insert(NETWORKS_ANNOTATION.to_owned(), "default@eth0".to_owned());
        block_on(async {
            networks.attach(request).await.unwrap();
            given_up(dir.path(), &networks).await;
            plugin(dir.path(), "second", "sleep 1000");
            let ports = [port(Protocol::Tcp, 8080, 80)];
            Namespace::new().attach(&networks, &ports).await.unwrap_err();
            let of_plugins = networks.clone();
            let retried = tokio::spawn(async move { of_plugins.retry_plugins().await });
            sh("nft flush ruleset");
            networks.keep_up().await;
            assert!(sh("nft list tables").contains("crisp-crisp0"));
            assert!(!retried.is_finished());
            retried.abort();
        });
    });
}

#[test]
fn plugins_that_other_programs_add_are_run_last() {
    on_private_host(module_path!(), "plugins_that_other_programs_add_are_run_last", || {
        let dir = tempfile::tempdir().unwrap();
        write_config(dir.path(), "10.conflist", TWO);
        for name in ["first", "second", "added"] {
            plugin(dir.path(), name, RESULT);
        }
        let networks = Networks::open(&scripted(dir.path())).unwrap();
        let (a, b) = (Namespace::new(), Namespace::new());
        block_on(a.attach(&networks, &[])).unwrap();
        fs::create_dir(dir.path().join("net.d/two")).unwrap();
        write_config(dir.path(), "two/50-added.conf", r#"{"type":"added"}"#);
        block_on(b.attach(&networks, &[])).unwrap();
        assert_eq!(calls(dir.path()), ["ADD first", "ADD second", "ADD first", "ADD second", "ADD added"]);
        let text = TWO.replace("\"name\"", "\"loadOnlyInlinedPlugins\":true,\"name\"");
        write_config(dir.path(), "10.conflist", &text);
        block_on(Namespace::new().attach(&networks, &[])).unwrap();
        assert_eq!(calls(dir.path()).len(), 7);
    });
}

#[test]
fn rules_and_bridge_come_back_by_themselves() {
    on_private_host(module_path!(), "rules_and_bridge_come_back_by_themselves", || {
        let dir = tempfile::tempdir().unwrap();
        let config = NetworkConfig { kind: NetworkKind::BuiltIn, ..scripted(dir.path()) };
        let networks = Networks::open(&config).unwrap();
        let pod = Namespace::new();
        block_on(async {
            networks.keep_up().await;
            assert!(!sh("ip link").contains("crisp0"), "without pods nothing is made");
            pod.attach(&networks, &[port(Protocol::Tcp, 8080, 80)]).await.unwrap();
            tell_callers_who_they_are(&pod, 80);
            for harm in ["nft flush ruleset", "ip link del crisp0", "nft delete table ip6 crisp-crisp0"] {
                sh(harm);
                networks.keep_up().await;
                assert_eq!(ask_twice("127.0.0.1:8080").unwrap(), "10.88.0.1", "{harm}");
                assert!(sh("nft list tables").contains("ip6 crisp-crisp0"), "{harm}");
            }
        });
    });
}
