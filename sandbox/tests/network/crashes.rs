//! A server that is killed while it attaches and detaches: the next one takes away what is left, whatever the
//! moment was.

use std::io::{BufRead, BufReader};
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use crisp_executor::ids::PodId;
use crisp_sandbox::network::{
    Connection, NETWORKS_ANNOTATION, NetworkConfig, NetworkKind, Networks, PodNetlink, Protocol,
};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with, socketpair};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::dns::{A, ask_for, network};
use crate::plugins::{RESULT, calls, plugin, scripted, write_config};
use crate::support::CollectGarbage as _;
use crate::support::{
    Namespace, ask_twice, block_on, config, on_private_host, port, sh, tell_callers_who_they_are, traces,
};

const JOB: &str = "CRISP_TEST_CRASHING_SERVER";

/// The job of a server that will be killed.
struct Job {
    dir: String,
    pod: String,
    netns: String,
    work: Work,
}

/// The work of a server until it is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Work {
    /// Attaches and detaches the pod.
    Attach,
    AttachWithPlugins,
    /// Makes a network, connects the pod to it, disconnects it, removes the network.
    Connect,
    /// Connects the pod to the network lan, and hangs when the interface is made.
    ConnectHalf,
}

const WORKS: [Work; 4] = [Work::Attach, Work::AttachWithPlugins, Work::Connect, Work::ConnectHalf];

impl Job {
    fn given() -> Option<Self> {
        let text = std::env::var(JOB).ok()?;
        let mut parts = text.split(' ').map(str::to_owned);
        let mut next = || parts.next().unwrap();
        Some(Self { dir: next(), pod: next(), netns: next(), work: WORKS[next().parse::<usize>().unwrap()] })
    }

    fn settings(&self) -> NetworkConfig {
        settings(Path::new(&self.dir), self.work != Work::AttachWithPlugins)
    }

    /// Works until it is killed.
    fn work(&self) {
        let networks = Networks::open(&self.settings()).unwrap();
        let netns = std::fs::File::open(&self.netns).unwrap();
        let inside = netns.try_clone().unwrap();
        let socket = std::thread::spawn(move || {
            move_into_link_name_space(inside.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None).unwrap()
        });
        let mut pod = Namespace::new();
        pod.id = PodId::parse(&self.pod).unwrap();
        pod.netns = Arc::new(netns.into());
        // An answer that does not come.
        let (silent, _other_end) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        pod.netlink =
            PodNetlink::new(if self.work == Work::ConnectHalf { silent } else { socket.join().unwrap() });
        println!("\nready");
        block_on(async {
            loop {
                match self.work {
                    Work::Attach | Work::AttachWithPlugins => {
                        pod.attach(&networks, &[port(Protocol::Tcp, 8080, 80)]).await.unwrap();
                        networks.detach(&pod.id).await.unwrap();
                    }
                    Work::Connect => {
                        networks
                            .create(network("lan", vec!["10.1.1.0/24".parse().unwrap()], false))
                            .await
                            .unwrap();
                        networks.connect(pod.request(&[]), lan()).await.unwrap();
                        networks.disconnect(&pod.id, "lan").await.unwrap();
                        networks.remove("lan".to_owned()).await.unwrap();
                    }
                    Work::ConnectHalf => drop(networks.connect(pod.request(&[]), lan()).await),
                }
            }
        });
    }
}

fn lan() -> Connection {
    Connection { network: "lan".to_owned(), ..Connection::default() }
}

fn settings(dir: &Path, built_in: bool) -> NetworkConfig {
    match built_in {
        true => NetworkConfig { kind: NetworkKind::BuiltIn, ..config(dir) },
        false => NetworkConfig { kind: NetworkKind::Cni, ..scripted(dir) },
    }
}

/// Starts the server that is to be killed; returns when it is about to attach.
fn start(test: &str, dir: &Path, pod: &Namespace, work: Work) -> Child {
    let netns = format!("/proc/{}/fd/{}", std::process::id(), pod.netns.as_raw_fd());
    let work = WORKS.iter().position(|other| *other == work).unwrap();
    let mut server = Command::new(std::env::current_exe().unwrap())
        .args([&format!("crashes::{test}"), "--exact", "--nocapture"])
        .env(JOB, format!("{} {} {netns} {work}", dir.display(), pod.id))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(server.stdout.take().unwrap()).lines();
    assert!(lines.map_while(Result::ok).any(|line| line == "ready"));
    server
}

fn kill(mut server: Child) {
    server.kill().unwrap();
    server.wait().unwrap();
}

#[test]
fn killed_at_any_moment_the_built_in_network_leaves_nothing() {
    let test = "killed_at_any_moment_the_built_in_network_leaves_nothing";
    if let Some(job) = Job::given() {
        return job.work();
    }
    on_private_host(module_path!(), test, || {
        let dir = tempfile::tempdir().unwrap();
        let before = traces();
        for round in 0..25 {
            let pod = Namespace::new();
            let server = start(test, dir.path(), &pod, Work::Attach);
            std::thread::sleep(Duration::from_micros(300 * round));
            kill(server);
            let networks = Networks::open(&settings(dir.path(), true)).unwrap();
            block_on(async {
                networks.collect_garbage(&[]).await.unwrap();
                // The port is free, and so is the pod's name.
                pod.attach(&networks, &[port(Protocol::Tcp, 8080, 80)]).await.unwrap();
                networks.detach(&pod.id).await.unwrap();
                networks.close_if_unused().await.unwrap();
            });
            assert_eq!(traces(), before, "round {round}");
            assert_eq!(std::fs::read_dir(dir.path().join("state/pods")).unwrap().count(), 0, "round {round}");
        }
    });
}

/// Connects the pod, or finds that it is connected: it has the address that the server names. Then disconnects it.
fn connects(networks: &Networks, pod: &Namespace, when: &str) {
    let name = |ip: &str| ask_for(Duration::from_secs(8), pod, ip, "web", A).unwrap().1;
    block_on(async {
        networks.keep_up().await;
        let is_connected = networks.attachments(&pod.id).iter().any(|on| on.network == "lan");
        if !is_connected {
            if !networks.list().await.unwrap().iter().any(|network| network.name == "lan") {
                networks.create(network("lan", vec!["10.1.1.0/24".parse().unwrap()], false)).await.unwrap();
            }
            networks.connect(pod.request(&[]), lan()).await.unwrap();
        }
        let on = networks.attachments(&pod.id).into_iter().find(|on| on.network == "lan").unwrap();
        let addresses = pod.sh("ip -o -4 addr");
        assert!(addresses.contains(&format!("net1    inet {}/24", on.ips[0])), "{when}: {addresses}");
        assert_eq!(name("10.1.1.1"), [on.ips[0].to_string()], "{when}");
        networks.disconnect(&pod.id, "lan").await.unwrap();
        networks.remove("lan".to_owned()).await.unwrap();
    });
    let left = pod.sh("ip -o link");
    assert!(!left.contains("net1"), "{when}: {left}");
}

#[test]
fn killed_at_any_moment_a_connection_is_whole_or_can_be_made_again() {
    let test = "killed_at_any_moment_a_connection_is_whole_or_can_be_made_again";
    if let Some(job) = Job::given() {
        return job.work();
    }
    on_private_host(module_path!(), test, || {
        let dir = tempfile::tempdir().unwrap();
        let pod = Namespace::new();
        let networks = Networks::open(&settings(dir.path(), true)).unwrap();
        block_on(pod.attach(&networks, &[])).unwrap();
        drop(networks);
        let before = traces_without_rules();
        for round in 0..40 {
            let server = start(test, dir.path(), &pod, Work::Connect);
            std::thread::sleep(Duration::from_micros(900 * round));
            kill(server);
            let networks = Networks::open(&settings(dir.path(), true)).unwrap();
            connects(&networks, &pod, &format!("round {round}"));
            assert_eq!(traces_without_rules(), before, "round {round}");
            let left = dir.path().join("root/networks");
            assert_eq!(std::fs::read_dir(left).unwrap().count(), 0, "round {round}");
        }
    });
}

/// The machine loses power while a pod has leases and a port: links, rules and the volatile folder are gone.
#[test]
fn after_a_reboot_there_are_the_networks_and_nothing_of_their_pods() {
    let name = "after_a_reboot_there_are_the_networks_and_nothing_of_their_pods";
    on_private_host(module_path!(), name, || {
        let dir = tempfile::tempdir().unwrap();
        let before = traces();
        let attach = async |networks: &Networks, pod: &Namespace| {
            let mut request = pod.request(&[port(Protocol::Tcp, 8080, 80)]);
            request.annotations.insert(NETWORKS_ANNOTATION.to_owned(), "lan".to_owned());
            networks.attach(request).await.unwrap();
            let ips = networks.attachments(&pod.id).into_iter().map(|on| on.ips[0].to_string());
            assert_eq!(ips.collect::<Vec<_>>(), ["10.88.0.2", "10.1.1.2"]);
        };
        {
            let networks = Networks::open(&settings(dir.path(), true)).unwrap();
            let pod = Namespace::new();
            block_on(async {
                networks.create(network("lan", vec!["10.1.1.0/24".parse().unwrap()], false)).await.unwrap();
                attach(&networks, &pod).await;
            });
        }
        sh(
            "nft flush ruleset; for link in $(ip -o link | cut -d: -f2 | cut -d@ -f1 | grep '^ *cr'); do ip link del $link 2>/dev/null || true; done",
        );
        sh(&format!("rm -r {}/state", dir.path().display()));
        assert_eq!(traces(), before);
        let networks = Networks::open(&settings(dir.path(), true)).unwrap();
        block_on(async {
            let lan =
                networks.list().await.unwrap().into_iter().find(|network| network.name == "lan").unwrap();
            assert_eq!(
                (lan.subnets.len(), lan.subnets[0].to_string(), lan.members.len()),
                (1, "10.1.1.0/24".to_owned(), 0)
            );
            assert!(networks.recorded().is_empty());
            assert_eq!(traces(), before, "nothing is made before there is a pod");
            let pod = Namespace::new();
            attach(&networks, &pod).await;
            tell_callers_who_they_are(&pod, 80);
            assert_eq!(ask_twice("127.0.0.1:8080").unwrap(), "10.88.0.1");
            networks.detach(&pod.id).await.unwrap();
            networks.remove("lan".to_owned()).await.unwrap();
            networks.close_if_unused().await.unwrap();
        });
        assert_eq!(traces(), before);
    });
}

/// The rules of DNS change with each server.
fn traces_without_rules() -> String {
    sh("ip -o -4 addr; ip -o link | cut -d: -f2; nft list tables")
}

#[test]
fn half_a_connection_is_taken_back_by_the_next_server() {
    let test = "half_a_connection_is_taken_back_by_the_next_server";
    if let Some(job) = Job::given() {
        return job.work();
    }
    on_private_host(module_path!(), test, || {
        let dir = tempfile::tempdir().unwrap();
        let (pod, other) = (Namespace::new(), Namespace::new());
        let networks = Networks::open(&settings(dir.path(), true)).unwrap();
        block_on(async {
            networks.create(network("lan", vec!["10.1.1.0/24".parse().unwrap()], false)).await.unwrap();
            for namespace in [&pod, &other] {
                namespace.attach(&networks, &[]).await.unwrap();
            }
            networks.connect(other.request(&[]), lan()).await.unwrap();
        });
        drop(networks);
        let server = start(test, dir.path(), &pod, Work::ConnectHalf);
        pod.sh("timeout 60 sh -c 'until ip link show net1 2>/dev/null; do sleep 0.01; done'");
        kill(server);
        let networks = Networks::open(&settings(dir.path(), true)).unwrap();
        assert_eq!(networks.attachments(&pod.id).len(), 1);
        assert_eq!(networks.attachments(&other.id).len(), 2, "that of another pod is whole");
        assert!(!pod.sh("ip -o link").contains("net1"));
        block_on(networks.disconnect(&other.id, "lan")).unwrap();
        connects(&networks, &pod, "afterwards");
    });
}

#[test]
fn killed_at_any_moment_debians_plugins_leave_nothing() {
    let test = "killed_at_any_moment_debians_plugins_leave_nothing";
    crisp_skip::needs!("/usr/lib/cni/portmap", "iptables");
    if let Some(job) = Job::given() {
        return job.work();
    }
    on_private_host(module_path!(), test, || {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/usr/lib/cni", dir.path().join("bin")).unwrap();
        let leases = dir.path().join("leases");
        std::fs::create_dir(&leases).unwrap();
        let list = serde_json::json!({"cniVersion": "1.0.0", "name": "pods", "plugins": [
            {"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true, "ipam":
                {"type": "host-local", "dataDir": leases, "ranges": [[{"subnet": "10.44.0.0/16"}]]}},
            {"type": "portmap", "capabilities": {"portMappings": true}}]});
        write_config(dir.path(), "10.conflist", &list.to_string());
        for round in 0..16 {
            let pod = Namespace::new();
            let server = start(test, dir.path(), &pod, Work::AttachWithPlugins);
            std::thread::sleep(Duration::from_millis(6 * round));
            kill(server);
            let networks = Networks::open(&settings(dir.path(), false)).unwrap();
            block_on(networks.collect_garbage(&[])).unwrap();
            let left = sh(&format!(
                "ls /run/netns; find {} -name '10.44*'; ip -o link | grep veth || true; nft list ruleset | grep 8080 || true",
                leases.display()
            ));
            assert_eq!(left, "", "round {round}");
            assert_eq!(std::fs::read_dir(dir.path().join("root/cni")).unwrap().count(), 0, "round {round}");
        }
    });
}

#[test]
fn a_plugin_that_a_killed_server_called_is_waited_for() {
    let test = "a_plugin_that_a_killed_server_called_is_waited_for";
    if let Some(job) = Job::given() {
        return job.work();
    }
    on_private_host(module_path!(), test, || {
        let dir = tempfile::tempdir().unwrap();
        write_config(dir.path(), "10.conf", r#"{"cniVersion":"1.0.0","name":"one","type":"slow"}"#);
        let (begun, done) = (dir.path().join("begun"), dir.path().join("done"));
        let body = format!(
            "[ $CNI_COMMAND = DEL ] || {{ touch {}; (sleep 1; touch {}); }}; {RESULT}",
            begun.display(),
            done.display()
        );
        plugin(dir.path(), "slow", &body);
        let pod = Namespace::new();
        let server = start(test, dir.path(), &pod, Work::AttachWithPlugins);
        while !begun.exists() {
            std::thread::sleep(Duration::from_millis(2));
        }
        kill(server);
        let networks = Networks::open(&settings(dir.path(), false)).unwrap();
        block_on(networks.collect_garbage(&[])).unwrap();
        assert_eq!(calls(dir.path()), ["ADD slow", "DEL slow"]);
        assert!(done.exists(), "DEL was called while ADD was under way");
    });
}
