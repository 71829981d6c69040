//! Debian's plugins, each doing what it is for.

use std::fs;
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};

use crisp_executor::ids::PodId;
use crisp_sandbox::network::{NETWORKS_ANNOTATION, NetworkConfig, Networks, Protocol};
use serde_json::{Value, json};

use crate::plugins::{calls, plugin, write_config};
use crate::support::{
    Namespace, SECOND, ask, ask_from, block_on, config, on_private_host, outside, port, sh,
    tell_callers_who_they_are,
};

/// A network of Debian's plugins.
fn configure(dir: &Path, name: &str, plugins: &Value) {
    let list = json!({"cniVersion": "1.0.0", "name": name, "plugins": plugins});
    write_config(dir, &format!("{name}.conflist"), &list.to_string());
}

fn host_local(dir: &Path, ranges: &[&str]) -> Value {
    let ranges: Vec<Value> = ranges.iter().map(|range| json!([{"subnet": range}])).collect();
    json!({"type": "host-local", "dataDir": dir.join("leases"), "ranges": ranges,
           "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]})
}

/// Nothing of a pod is left.
fn assert_clean(dir: &Path) {
    assert_eq!(sh("ls /run/netns"), "");
    assert_eq!(fs::read_dir(dir.join("root/cni")).unwrap().count(), 0);
    assert_eq!(fs::read_dir(dir.join("cache/results")).unwrap().count(), 0);
    let leases = sh(&format!(
        "find {} -type f -name '*[.:]*' | grep -v last_reserved || true",
        dir.join("leases").display()
    ));
    assert_eq!(leases, "");
    assert!(!sh("ip link").contains("veth"), "{}", sh("ip link"));
    assert!(!sh("nft list ruleset").contains("8080"), "{}", sh("nft list ruleset"));
}

#[test]
fn a_chain_of_all_meta_plugins_on_a_dual_stack_bridge() {
    crisp_skip::needs!("/usr/lib/cni/portmap", "iptables");
    on_private_host(module_path!(), "a_chain_of_all_meta_plugins_on_a_dual_stack_bridge", || {
        let dir = tempfile::tempdir().unwrap();
        let outside = outside();
        let ipam = host_local(dir.path(), &["10.6.0.0/24", "fd06::/64"]);
        configure(
            dir.path(),
            "chain",
            &json!([
                {"type": "loopback"},
                {"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true, "hairpinMode": true, "ipam": ipam},
                {"type": "portmap", "capabilities": {"portMappings": true}},
                {"type": "firewall"},
                {"type": "tuning", "sysctl": {"net.core.somaxconn": "500"}, "capabilities": {"mac": true}},
                {"type": "bandwidth", "capabilities": {"bandwidth": true}}
            ]),
        );
        let networks = Networks::open(&config(dir.path())).unwrap();
        let (a, b) = (Namespace::new(), Namespace::new());
        block_on(async {
            let mut request = a.request(&[port(Protocol::Tcp, 8080, 80)]);
            request.annotations.insert("kubernetes.io/ingress-bandwidth".to_owned(), "100M".to_owned());
            let asked = r#"[{"name":"chain","interface":"eth0","mac":"02:00:00:00:00:07"}]"#;
            request.annotations.insert(NETWORKS_ANNOTATION.to_owned(), asked.to_owned());
            let on_a = networks.attach(request).await.unwrap();
            b.attach(&networks, &[]).await.unwrap();
            let ips: Vec<String> = on_a.ips.iter().map(ToString::to_string).collect();
            assert_eq!(ips, ["10.6.0.2", "fd06::2"]);
            assert_eq!(a.sh("cat /proc/sys/net/core/somaxconn").trim(), "500");
            assert!(a.sh("ip link show eth0").contains("02:00:00:00:00:07"));
            assert!(sh("tc qdisc").contains("rate 100Mbit"), "{}", sh("tc qdisc"));
            tell_callers_who_they_are(&a, 80);
            assert_eq!(ask_from(&b, "10.6.0.2:80").unwrap(), "10.6.0.3");
            assert_eq!(ask_from(&b, "[fd06::2]:80").unwrap(), "fd06::3");
            assert_eq!(ask_from(&outside, "192.0.2.1:8080").unwrap(), "192.0.2.2");
            assert!(ask("127.0.0.1:8080").is_ok());
            networks.detach(&a.id).await.unwrap();
            networks.detach(&b.id).await.unwrap();
        });
        assert_clean(dir.path());
    });
}

#[test]
fn firewall_lets_pods_out_of_a_host_that_forwards_nothing_else() {
    crisp_skip::needs!("/usr/lib/cni/firewall", "iptables");
    on_private_host(module_path!(), "firewall_lets_pods_out_of_a_host_that_forwards_nothing_else", || {
        let dir = tempfile::tempdir().unwrap();
        let outside = outside();
        tell_callers_who_they_are(&outside, 80);
        sh("iptables -P FORWARD DROP");
        let bridge = |bridge: &str, pool: &str| {
            let ipam = host_local(dir.path(), &[pool]);
            json!({"type": "bridge", "bridge": bridge, "isGateway": true, "ipMasq": true, "ipam": ipam})
        };
        configure(
            dir.path(),
            "a",
            &json!([bridge("cni0", "10.6.0.0/24"), {"type": "firewall", "backend": "iptables"}]),
        );
        configure(dir.path(), "b", &json!([bridge("cni1", "10.7.0.0/24")]));
        let networks = Networks::open(&config(dir.path())).unwrap();
        let (pod, without) = (Namespace::new(), Namespace::new());
        block_on(async {
            pod.attach(&networks, &[]).await.unwrap();
            let mut request = without.request(&[]);
            request.annotations.insert(NETWORKS_ANNOTATION.to_owned(), "b@eth0".to_owned());
            networks.attach(request).await.unwrap();
            assert_eq!(ask_from(&pod, "192.0.2.2:80").unwrap(), "192.0.2.1");
            assert!(ask_from(&without, "192.0.2.2:80").is_err(), "without the plugin");
            let rules = sh("iptables -S CNI-FORWARD");
            assert!(rules.contains("-s 10.6.0.2/32 -j ACCEPT"), "{rules}");
            networks.check(&pod.id).await.unwrap();
            networks.detach(&pod.id).await.unwrap();
            networks.detach(&without.id).await.unwrap();
        });
        let rules = sh("iptables -S CNI-FORWARD");
        assert!(!rules.contains("10.6.0.2"), "{rules}");
        assert_clean(dir.path());
    });
}

#[test]
fn loopback_sets_lo_up() {
    crisp_skip::needs!("/usr/lib/cni/loopback", "nsenter");
    on_private_host(module_path!(), "loopback_sets_lo_up", || {
        let dir = tempfile::tempdir().unwrap();
        let seen = dir.path().join("seen");
        // The plugin itself, and the state of lo before and after its calls.
        let lo = format!("nsenter --net=$CNI_NETNS ip -o link show lo >>{}", seen.display());
        let body = format!(
            "[ $CNI_COMMAND != ADD ] || nsenter --net=$CNI_NETNS ip link set lo down; {lo}
             echo \"$input\" | /usr/lib/cni/loopback || exit 1; {lo}"
        );
        plugin(dir.path(), "loopback", &body);
        let ipam = host_local(dir.path(), &["10.6.0.0/24"]);
        configure(
            dir.path(),
            "chain",
            &json!([{"type": "loopback"}, {"type": "bridge", "bridge": "cni0", "isGateway": true, "ipam": ipam}]),
        );
        let settings = NetworkConfig {
            cni_bin_dirs: vec![dir.path().join("bin"), "/usr/lib/cni".into()],
            ..config(dir.path())
        };
        let networks = Networks::open(&settings).unwrap();
        let pod = Namespace::new();
        block_on(async {
            pod.attach(&networks, &[]).await.unwrap();
            let is_up: Vec<bool> =
                fs::read_to_string(&seen).unwrap().lines().map(|line| line.contains("LOOPBACK,UP")).collect();
            assert_eq!(is_up, [false, true]);
            networks.detach(&pod.id).await.unwrap();
        });
        assert_eq!(calls(dir.path()), ["ADD loopback", "DEL loopback"]);
        assert_clean(dir.path());
    });
}

#[test]
fn ptp_gives_each_pod_a_cable_of_its_own() {
    crisp_skip::needs!("/usr/lib/cni/ptp", "iptables");
    on_private_host(module_path!(), "ptp_gives_each_pod_a_cable_of_its_own", || {
        let dir = tempfile::tempdir().unwrap();
        let outside = outside();
        tell_callers_who_they_are(&outside, 80);
        let ipam = host_local(dir.path(), &["10.7.0.0/24"]);
        configure(dir.path(), "ptp", &json!([{"type": "ptp", "ipMasq": true, "ipam": ipam}]));
        let networks = Networks::open(&config(dir.path())).unwrap();
        let (a, b) = (Namespace::new(), Namespace::new());
        block_on(async {
            a.attach(&networks, &[]).await.unwrap();
            b.attach(&networks, &[]).await.unwrap();
            tell_callers_who_they_are(&a, 80);
            assert_eq!(ask_from(&b, "10.7.0.2:80").unwrap(), "10.7.0.3");
            assert_eq!(ask_from(&a, "192.0.2.2:80").unwrap(), "192.0.2.1");
            networks.check(&a.id).await.unwrap();
            networks.detach(&a.id).await.unwrap();
            networks.detach(&b.id).await.unwrap();
        });
        assert_clean(dir.path());
    });
}

/// An interface of the host that the kernel lets others share, and its other side.
fn lan() -> Namespace {
    let lan = Namespace::new();
    let fd = std::os::fd::AsRawFd::as_raw_fd(&*lan.netns);
    sh(&format!(
        "ip link add lan0 type veth peer name lan1 && ip link set lan1 netns /proc/{}/fd/{fd} && ip link set lan0 up",
        std::process::id()
    ));
    lan.sh("ip link set lo up; ip addr add 10.8.0.1/24 dev lan1; ip link set lan1 up; until ip link show lan1 | grep -q 'state UP'; do sleep 0.01; done");
    lan
}

fn shares_an_interface(kind: &str) {
    let dir = tempfile::tempdir().unwrap();
    let lan = lan();
    let ipam = json!({"type": "static", "capabilities": {"ips": true}});
    let plugin = json!({"type": kind, "master": "lan0", "ipam": ipam, "capabilities": {"ips": true}});
    configure(dir.path(), kind, &json!([plugin]));
    let networks = Networks::open(&config(dir.path())).unwrap();
    let (a, b) = (Namespace::new(), Namespace::new());
    block_on(async {
        for (pod, ip) in [(&a, "10.8.0.7"), (&b, "10.8.0.8")] {
            let mut request = pod.request(&[]);
            let asked = format!(r#"[{{"name":"{kind}","interface":"eth0","ips":["{ip}/24"]}}]"#);
            request.annotations.insert(NETWORKS_ANNOTATION.to_owned(), asked);
            assert_eq!(networks.attach(request).await.unwrap().ips[0].to_string(), ip);
        }
        tell_callers_who_they_are(&a, 80);
        assert_eq!(ask_from(&b, "10.8.0.7:80").unwrap(), "10.8.0.8");
        assert_eq!(ask_from(&lan, "10.8.0.7:80").unwrap(), "10.8.0.1");
        networks.check(&a.id).await.unwrap();
        networks.detach(&a.id).await.unwrap();
        networks.detach(&b.id).await.unwrap();
    });
    assert!(a.sh("ip link").lines().count() <= 2, "{}", a.sh("ip link"));
    assert_eq!(sh("ls /run/netns"), "");
}

fn kernel_has(kind: &str) -> bool {
    let add = format!(
        "unshare -n sh -c 'ip link add lan0 type veth peer name lan1 && ip link add x0 link lan0 type {kind}'"
    );
    std::process::Command::new("sh").args(["-c", &add]).output().is_ok_and(|output| output.status.success())
}

#[test]
fn macvlan_puts_pods_on_the_hosts_network() {
    crisp_skip::needs!("/usr/lib/cni/macvlan", "ip", "unshare");
    if !kernel_has("macvlan") {
        crisp_skip::unsupported!(Kernel("macvlan"));
    }
    on_private_host(module_path!(), "macvlan_puts_pods_on_the_hosts_network", || {
        shares_an_interface("macvlan")
    });
}

#[test]
fn ipvlan_puts_pods_on_the_hosts_network() {
    crisp_skip::needs!("/usr/lib/cni/ipvlan", "ip", "unshare");
    if !kernel_has("ipvlan") {
        crisp_skip::unsupported!(Kernel("ipvlan"));
    }
    on_private_host(module_path!(), "ipvlan_puts_pods_on_the_hosts_network", || {
        shares_an_interface("ipvlan")
    });
}

#[test]
fn vrf_puts_the_interface_into_a_routing_domain() {
    crisp_skip::needs!("/usr/lib/cni/vrf", "ip", "unshare");
    if !kernel_has("vrf table 7") {
        crisp_skip::unsupported!(Kernel("vrf"));
    }
    on_private_host(module_path!(), "vrf_puts_the_interface_into_a_routing_domain", || {
        let dir = tempfile::tempdir().unwrap();
        let ipam = host_local(dir.path(), &["10.6.0.0/24"]);
        let bridge = json!({"type": "bridge", "bridge": "cni0", "isGateway": true, "ipam": ipam});
        configure(dir.path(), "vrf", &json!([bridge, {"type": "vrf", "vrfname": "blue"}]));
        let networks = Networks::open(&config(dir.path())).unwrap();
        let pod = Namespace::new();
        block_on(pod.attach(&networks, &[])).unwrap();
        assert!(pod.sh("ip link show eth0").contains("master blue"));
        block_on(networks.detach(&pod.id)).unwrap();
        assert_clean(dir.path());
    });
}

#[test]
fn bandwidth_limits_what_a_pod_receives() {
    crisp_skip::needs!("/usr/lib/cni/bandwidth", "iptables", "tc");
    on_private_host(module_path!(), "bandwidth_limits_what_a_pod_receives", || {
        let dir = tempfile::tempdir().unwrap();
        let ipam = host_local(dir.path(), &["10.6.0.0/24"]);
        let bridge = json!({"type": "bridge", "bridge": "cni0", "isGateway": true, "ipam": ipam});
        configure(
            dir.path(),
            "slow",
            &json!([bridge, {"type": "bandwidth", "ingressRate": 8_000_000, "ingressBurst": 800_000}]),
        );
        let networks = Networks::open(&config(dir.path())).unwrap();
        let pod = Namespace::new();
        block_on(pod.attach(&networks, &[])).unwrap();
        let took = receive(&pod, "10.6.0.2", 1_000_000);
        // A megabyte at a megabyte in a second, less what the burst lets through.
        assert!(took > SECOND / 2 && took < SECOND * 5, "{took:?}");
        block_on(networks.detach(&pod.id)).unwrap();
        assert_clean(dir.path());
    });
}

#[test]
fn the_built_in_network_limits_bandwidth_too() {
    crisp_skip::needs!("tc");
    on_private_host(module_path!(), "the_built_in_network_limits_bandwidth_too", || {
        let dir = tempfile::tempdir().unwrap();
        let networks = Networks::open(&config(dir.path())).unwrap();
        let pod = Namespace::new();
        let mut request = pod.request(&[]);
        for (way, rate) in [("ingress", "8M"), ("egress", "100G")] {
            request.annotations.insert(format!("kubernetes.io/{way}-bandwidth"), rate.to_owned());
        }
        block_on(networks.attach(request.clone())).unwrap();
        let (host, inside) = (sh("tc qdisc"), pod.sh("tc qdisc"));
        assert!(host.contains("tbf") && host.contains("rate 8Mbit burst 128Kb"), "{host}");
        assert!(inside.contains("dev eth0") && inside.contains("rate 100Gbit burst 268"), "{inside}");
        let took = receive(&pod, "10.88.0.2", 1_000_000);
        assert!(took > SECOND / 2 && took < SECOND * 5, "{took:?}");
        block_on(networks.detach(&pod.id)).unwrap();
        let wrong = "kubernetes.io/egress-bandwidth".to_owned();
        request.annotations.insert(wrong, "fast".to_owned());
        let error = block_on(networks.attach(request)).unwrap_err().to_string();
        assert!(
            error.contains("kubernetes.io/egress-bandwidth \"fast\": expected bits per second"),
            "{error}"
        );
    });
}

/// How long the pod takes to receive so many bytes from the host.
pub fn receive(pod: &Namespace, ip: &str, bytes: usize) -> Duration {
    pod.run(|| {
        let listener = std::net::TcpListener::bind("[::]:5001").unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            std::io::copy(&mut stream, &mut std::io::sink()).unwrap();
            std::io::Write::write_all(&mut stream, b"done").unwrap();
        });
    });
    let start = Instant::now();
    let mut stream = TcpStream::connect((ip, 5001)).unwrap();
    stream.set_read_timeout(Some(SECOND * 30)).unwrap();
    std::io::Write::write_all(&mut stream, &vec![0; bytes]).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut done = [0; 4];
    std::io::Read::read_exact(&mut stream, &mut done).unwrap();
    start.elapsed()
}

#[test]
fn cycles_of_real_plugins_by_eight_workers_leave_nothing() {
    const ROUNDS: usize = 3;
    crisp_skip::needs!("/usr/lib/cni/portmap", "iptables");
    on_private_host(module_path!(), "cycles_of_real_plugins_by_eight_workers_leave_nothing", || {
        let dir = tempfile::tempdir().unwrap();
        let ipam = host_local(dir.path(), &["10.6.0.0/24"]);
        let bridge = json!({"type": "bridge", "bridge": "cni0", "isGateway": true, "ipam": ipam});
        let portmap = json!({"type": "portmap", "capabilities": {"portMappings": true}});
        configure(dir.path(), "cycles", &json!([bridge, portmap]));
        let networks = Networks::open(&config(dir.path())).unwrap();
        let work = |worker: u16| {
            let networks = networks.clone();
            async move {
                let mut pod = Namespace::new();
                for _ in 0..ROUNDS {
                    pod.attach(&networks, &[port(Protocol::Tcp, 20_000 + worker, 8080)]).await.unwrap();
                    networks.detach(&pod.id).await.unwrap();
                    pod.id = PodId::random();
                }
            }
        };
        block_on(async {
            // The first call of portmap makes its own chains, for which two calls at once hinder each other.
            let first = Namespace::new();
            first.attach(&networks, &[port(Protocol::Tcp, 20_100, 8080)]).await.unwrap();
            networks.detach(&first.id).await.unwrap();
            let workers: Vec<_> = (0..8).map(|worker| tokio::spawn(work(worker))).collect();
            for worker in workers {
                worker.await.unwrap();
            }
        });
        assert_clean(dir.path());
    });
}
