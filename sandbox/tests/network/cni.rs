//! CNI plugins on a private host: Debian's own, and scripts that misbehave.

use std::fs;
use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::slice::from_ref;
use std::time::{Duration, Instant};

use crate::plugins::{RESULT, TWO, calls, plugin, scripted, two, write_config};
use crate::support::CollectGarbage as _;
use crate::support::{Namespace, SECOND, block_on, config, on_private_host, port, sh, traces};
use crisp_sandbox::network::{NetworkConfig, Networks, Protocol};

fn connects(address: &str) -> bool {
    TcpStream::connect_timeout(&address.parse::<SocketAddr>().unwrap(), SECOND).is_ok()
}

fn listen(pod: &Namespace, port: u16) {
    pod.run(move || {
        let listener = TcpListener::bind(("0.0.0.0", port)).unwrap();
        std::thread::spawn(move || listener.incoming().for_each(|s| drop(s.unwrap().write_all(b"hello"))));
    });
}

#[test]
fn debians_plugins_give_a_pod_its_network_and_take_it_away() {
    crisp_skip::needs!("/usr/lib/cni/portmap", "iptables");
    on_private_host(module_path!(), "debians_plugins_give_a_pod_its_network_and_take_it_away", || {
        let dir = tempfile::tempdir().unwrap();
        let addresses = dir.path().join("addresses");
        write_config(
            dir.path(),
            "10-bridge.conflist",
            &format!(
                r#"{{"cniVersion":"1.0.0","name":"pods","plugins":[
                    {{"type":"bridge","bridge":"cni0","isGateway":true,"ipMasq":true,
                      "ipam":{{"type":"host-local","ranges":[[{{"subnet":"10.44.0.0/16"}}]],
                               "routes":[{{"dst":"0.0.0.0/0"}}],"dataDir":"{}"}}}},
                    {{"type":"portmap","capabilities":{{"portMappings":true}}}}]}}"#,
                addresses.display()
            ),
        );
        let networks = Networks::open(&config(dir.path())).unwrap();
        let status = networks.status();
        assert!(status.ready && status.message.starts_with("CNI network \"pods\" of"), "{status:?}");
        let (a, b) = (Namespace::new(), Namespace::new());
        block_on(async {
            let on_a = a.attach(&networks, &[port(Protocol::Tcp, 8080, 80)]).await.unwrap();
            let on_b = b.attach(&networks, &[]).await.unwrap();
            assert_eq!(on_a.ips[0].to_string(), "10.44.0.2");
            assert_eq!((on_b.network.as_str(), on_b.interface.as_str()), ("pods", "eth0"));
            assert!(on_b.mac.is_some());
            listen(&a, 80);
            assert!(b.run(|| connects("10.44.0.2:80")));
            assert!(connects("127.0.0.1:8080"));
            assert!(b.run(|| {
                TcpListener::bind("127.0.0.1:0").is_ok_and(|l| connects(&l.local_addr().unwrap().to_string()))
            }));
            assert!(sh("ls /run/netns").contains(&format!("crisp-{}", a.id.short())));
            // A server that is started anew takes both away, with nothing but its records.
            drop(networks);
            fs::remove_dir_all(dir.path().join("net.d")).unwrap();
            let networks = Networks::open(&config(dir.path())).unwrap();
            assert_eq!(networks.attachment(&a.id), Some(on_a));
            networks.detach(&a.id).await.unwrap();
            networks.detach(&b.id).await.unwrap();
            networks.detach(&b.id).await.unwrap();
        });
        assert!(!sh("ip link").contains("veth"));
        assert!(!sh("nft list ruleset").contains("8080"));
        assert_eq!(sh("ls /run/netns"), "");
        let leases = sh(&format!("find {} -name '10.44*'", addresses.display()));
        assert_eq!(leases, "");
        assert_eq!(fs::read_dir(dir.path().join("root/cni")).unwrap().count(), 0);
    });
}

#[test]
fn plugins_are_told_what_the_specification_promises() {
    on_private_host(module_path!(), "plugins_are_told_what_the_specification_promises", || {
        let dir = tempfile::tempdir().unwrap();
        write_config(dir.path(), "10.conflist", TWO);
        plugin(
            dir.path(),
            "first",
            r#"echo '{"cniVersion":"1.0.0","ips":[{"address":"10.9.0.7/24"}],"first":1}'"#,
        );
        plugin(dir.path(), "second", RESULT);
        let networks = Networks::open(&scripted(dir.path())).unwrap();
        let pod = Namespace::new();
        block_on(async {
            pod.attach(&networks, &[port(Protocol::Udp, 53, 5353)]).await.unwrap();
            networks.detach(&pod.id).await.unwrap();
        });
        let text = fs::read_to_string(dir.path().join("calls")).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        let ns = format!("ns=/run/netns/crisp-{}", pod.id.short());
        let args = format!(
            "eth0 IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web;K8S_POD_INFRA_CONTAINER_ID={};K8S_POD_UID=uid-1",
            pod.id
        );
        let ports =
            r#""runtimeConfig":{"portMappings":[{"containerPort":5353,"hostPort":53,"protocol":"udp"}]}"#;
        assert_eq!(calls(dir.path()), ["ADD first", "ADD second", "DEL second", "DEL first"]);
        assert!(
            lines.iter().all(|l| l.contains(&ns) && l.contains(&args) && l.contains(r#""name":"two""#)),
            "{text}"
        );
        assert!(!lines[0].contains("prevResult") && !lines[0].contains("runtimeConfig"), "{text}");
        assert!(lines[1].contains(r#""first":1"#) && lines[1].contains(ports), "{text}");
        assert!(
            lines[2].contains("10.9.0.7") && !lines[2].contains(r#""first":1"#) && lines[2].contains(ports),
            "{text}"
        );
        assert!(lines[3].contains("prevResult") && !lines[3].contains("runtimeConfig"), "{text}");
    });
}

#[test]
fn a_failing_add_is_taken_back_and_both_failures_are_told() {
    on_private_host(module_path!(), "a_failing_add_is_taken_back_and_both_failures_are_told", || {
        let fails = r#"[ $CNI_COMMAND = DEL ] || { echo '{"code":7,"msg":"no cable"}'; exit 1; }"#;
        let before = traces();
        let (dir, networks) = two(RESULT, fails);
        let pod = Namespace::new();
        block_on(async {
            let error =
                pod.attach(&networks, &[port(Protocol::Tcp, 8080, 80)]).await.unwrap_err().to_string();
            assert_eq!(error, "CNI plugin \"second\" (ADD, network \"two\"): no cable (code 7)");
            assert_eq!(calls(dir.path()), ["ADD first", "ADD second", "DEL second", "DEL first"]);
            assert_eq!(traces(), before);

            plugin(dir.path(), "second", "echo broken >&2; exit 2");
            let error =
                pod.attach(&networks, &[port(Protocol::Tcp, 8080, 80)]).await.unwrap_err().to_string();
            let expected = "CNI plugin \"second\" (ADD, network \"two\"): exit status: 2: broken; undoing it failed \
                            too: CNI plugin \"second\" (DEL, network \"two\"): exit status: 2: broken";
            assert_eq!(error, expected);
            // It is not forgotten: the pod can't come twice, its port is not given away, and gc tries again.
            assert!(pod.attach(&networks, &[]).await.is_err());
            let other = Namespace::new();
            let error =
                other.attach(&networks, &[port(Protocol::Tcp, 8080, 80)]).await.unwrap_err().to_string();
            assert!(error.contains("already in use by pod"), "{error}");
            plugin(dir.path(), "second", RESULT);
            assert_eq!(networks.collect_garbage(&[]).await.unwrap(), from_ref(&pod.id));
            pod.attach(&networks, &[port(Protocol::Tcp, 8080, 80)]).await.unwrap();
            networks.detach(&pod.id).await.unwrap();
        });
        assert_eq!(traces(), before);
    });
}

#[test]
fn a_hanging_plugin_is_killed_and_holds_up_no_other_pod() {
    on_private_host(module_path!(), "a_hanging_plugin_is_killed_and_holds_up_no_other_pod", || {
        let dir = tempfile::tempdir().unwrap();
        write_config(dir.path(), "10.conflist", r#"{"cniVersion":"0.4.0","name":"one","type":"slow"}"#);
        let hangs =
            format!("case $CNI_ARGS in *NAME=stuck*) [ $CNI_COMMAND = DEL ] || sleep 300;; esac; {RESULT}");
        plugin(dir.path(), "slow", &hangs);
        let networks = NetworkConfig { cni_deadline: 3 * SECOND, ..scripted(dir.path()) };
        let networks = Networks::open(&networks).unwrap();
        let (stuck, other) = (Namespace::new(), Namespace::new());
        block_on(async {
            let mut request = stuck.request(&[]);
            request.name = "stuck".to_owned();
            let hanging = tokio::spawn({
                let networks = networks.clone();
                async move { networks.attach(request).await }
            });
            tokio::time::sleep(Duration::from_millis(200)).await;
            other.attach(&networks, &[]).await.unwrap();
            assert!(networks.status().ready);
            assert!(!hanging.is_finished(), "the hanging plugin held up others");
            let error = hanging.await.unwrap().unwrap_err().to_string();
            assert_eq!(
                error,
                "CNI plugin \"slow\" (ADD, network \"one\"): no answer within 3s; it was killed"
            );
            assert_eq!(calls(dir.path()).last().unwrap(), "DEL slow");
            assert_eq!(networks.attachment(&stuck.id), None);
            networks.detach(&other.id).await.unwrap();
        });
    });
}

#[test]
fn a_cancelled_attach_ends_its_plugin_at_once_and_is_taken_back() {
    on_private_host(module_path!(), "a_cancelled_attach_ends_its_plugin_at_once_and_is_taken_back", || {
        let dir = tempfile::tempdir().unwrap();
        let child = dir.path().join("child");
        let hangs = format!(
            "[ $CNI_COMMAND = DEL ] || {{ sleep 300 & echo $! >{0}; wait; }}; {RESULT}",
            child.display()
        );
        plugin(dir.path(), "slow", &hangs);
        let one = r#"{"cniVersion":"1.0.0","name":"one","plugins":[{"type":"slow"}]}"#;
        write_config(dir.path(), "10-one.conflist", one);
        let networks = Networks::open(&scripted(dir.path())).unwrap();
        let pod = Namespace::new();
        let before = traces();
        block_on(async {
            let request = pod.request(&[]);
            let cancel = request.cancel.clone();
            let attaching = tokio::spawn({
                let networks = networks.clone();
                async move { networks.attach(request).await }
            });
            while !child.exists() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            let start = Instant::now();
            cancel.cancel();
            let error = attaching.await.unwrap().unwrap_err().to_string();
            assert_eq!(error, "cancelled");
            assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
        });
        assert_eq!(calls(dir.path()), ["ADD slow", "DEL slow"]);
        let pid = fs::read_to_string(child).unwrap();
        let state = || fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
        let start = Instant::now();
        while !state().is_empty() && !state().contains(") Z") {
            assert!(start.elapsed() < 30 * SECOND, "the plugin's child lives on: {}", state());
        }
        assert_eq!(traces(), before);
    });
}

#[test]
fn missing_plugins_and_broken_files_are_named_by_attach_and_status() {
    on_private_host(
        module_path!(),
        "missing_plugins_and_broken_files_are_named_by_attach_and_status",
        || {
            let dir = tempfile::tempdir().unwrap();
            let networks = Networks::open(&scripted(dir.path())).unwrap();
            let pod = Namespace::new();
            write_config(dir.path(), "10.conflist", TWO);
            let before = traces();
            let check = |reason: &str, expected: &str| {
                let status = networks.status();
                assert_eq!((status.ready, status.reason.as_str()), (false, reason));
                assert!(status.message.contains(expected), "{status:?}");
                let error = block_on(pod.attach(&networks, &[])).unwrap_err().to_string();
                assert!(error.ends_with(&status.message), "{error}");
            };
            let (bin, more) = (dir.path().join("bin"), dir.path().join("more"));
            let not_there = format!(
                "(network \"two\" of {}) is not in {} or {}: install it or set cni-bin-dir",
                dir.path().join("net.d/10.conflist").display(),
                bin.display(),
                more.display()
            );
            check("CniPluginMissing", &not_there);
            plugin(dir.path(), "first", RESULT);
            plugin(dir.path(), "second", RESULT);
            assert!(networks.status().ready);
            write_config(
                dir.path(),
                "10.conflist",
                r#"{"cniVersion":"1.0.0","name":"two","plugins":[{"type":7}]}"#,
            );
            check("CniConfigInvalid", "10.conflist: plugins[0].type: must be a text");
            fs::remove_dir_all(dir.path().join("net.d")).unwrap();
            assert!(networks.status().message.starts_with("built-in network"));
            assert_eq!(traces(), before);
        },
    );
}

#[test]
fn a_record_that_outlived_a_reboot_is_given_back_without_its_namespace() {
    on_private_host(
        module_path!(),
        "a_record_that_outlived_a_reboot_is_given_back_without_its_namespace",
        || {
            let (dir, networks) = two(RESULT, RESULT);
            let pod = Namespace::new();
            block_on(async {
                pod.attach(&networks, &[]).await.unwrap();
                drop(networks);
                sh("umount /run/netns/* && rm /run/netns/*");
                let networks = Networks::open(&scripted(dir.path())).unwrap();
                assert_eq!(networks.collect_garbage(from_ref(&pod.id)).await.unwrap(), []);
                assert_eq!(networks.collect_garbage(&[]).await.unwrap(), from_ref(&pod.id));
            });
            let text = fs::read_to_string(dir.path().join("calls")).unwrap();
            let last = text.lines().last().unwrap();
            assert!(last.starts_with("DEL first ns= eth0") && last.contains("10.9.0.7"), "{last}");
        },
    );
}

#[test]
fn newer_plugins_are_asked_for_status_and_told_of_live_pods_only_where_the_server_has_the_network_alone() {
    let name = "newer_plugins_are_asked_for_status_and_told_of_live_pods_only_where_the_server_has_the_network_alone";
    on_private_host(module_path!(), name, || {
        let dir = tempfile::tempdir().unwrap();
        write_config(
            dir.path(),
            "10.conflist",
            r#"{"cniVersion":"1.1.0","name":"new","plugins":[{"type":"new"}]}"#,
        );
        plugin(
            dir.path(),
            "new",
            &format!(
                "[ $CNI_COMMAND != STATUS ] || {{ echo '{{\"code\":50,\"msg\":\"agent is down\"}}'; exit 1; }}; {RESULT}"
            ),
        );
        let networks = Networks::open(&scripted(dir.path())).unwrap();
        let pod = Namespace::new();
        block_on(async {
            assert!(networks.status().message.contains("have not answered STATUS yet"));
            let first = networks.clone();
            let responded = move || {
                let begun = Instant::now();
                loop {
                    let status = first.first_status();
                    if !status.message.contains("not answered") || begun.elapsed() > Duration::from_secs(20) {
                        return status;
                    }
                    std::thread::sleep(Duration::from_millis(10));
                }
            };
            let status = tokio::task::spawn_blocking(responded).await.unwrap();
            assert_eq!((status.ready, status.reason.as_str()), (false, "CniPluginNotReady"));
            assert!(status.message.contains("agent is down (code 50)"), "{status:?}");
            pod.attach(&networks, &[]).await.unwrap();
            networks.collect_garbage(from_ref(&pod.id)).await.unwrap();
        });
        // GC frees what other runtimes on the same network have, so by default it is never sent.
        let text = fs::read_to_string(dir.path().join("calls")).unwrap();
        assert!(!text.contains("GC new"), "{text}");
        drop(networks);
        let alone = NetworkConfig { cni_gc: true, ..scripted(dir.path()) };
        let networks = Networks::open(&alone).unwrap();
        block_on(networks.collect_garbage(from_ref(&pod.id))).unwrap();
        let text = fs::read_to_string(dir.path().join("calls")).unwrap();
        let live = format!(r#""cni.dev/valid-attachments":[{{"containerID":"{}","ifname":"eth0"}}]"#, pod.id);
        let last = text.lines().last().unwrap();
        assert!(last.starts_with("GC new") && last.contains(&live), "{last}");
    });
}

#[test]
fn names_that_would_break_out_of_cni_args_are_refused() {
    on_private_host(module_path!(), "names_that_would_break_out_of_cni_args_are_refused", || {
        let (_dir, networks) = two(RESULT, RESULT);
        let pod = Namespace::new();
        let mut request = pod.request(&[]);
        request.name = "a;IP=10.0.0.1".to_owned();
        let error = block_on(networks.attach(request)).unwrap_err().to_string();
        assert!(error.starts_with("K8S_POD_NAME \"a;IP=10.0.0.1\": ';', '='"), "{error}");
        assert_eq!(networks.attachment(&pod.id), None);
    });
}
