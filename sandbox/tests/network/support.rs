//! A host of one's own: tests run again inside fresh network and mount namespaces, so that bridges, packet
//! rules and mounts are real and gone with the process.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use std::collections::BTreeMap;

use crisp_executor::ids::PodId;
use crisp_operation::Cancel;
use crisp_sandbox::network::{
    AttachRequest, Attachment, DEFAULT_CNI_DEADLINE, DnsSettings, NetworkConfig, NetworkError, NetworkKind,
    Networks, PodNetlink, PortMapping, Protocol,
};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

const INSIDE: &str = "CRISP_TEST_PRIVATE_HOST";

/// Runs `body` as the root of a private host. `module` and `test` name the calling test.
pub fn on_private_host(module: &str, test: &str, body: impl FnOnce()) {
    crisp_skip::needs!("unshare", "mount", "ip");
    if std::env::var_os(INSIDE).is_some() {
        // The folder of namespaces stays once it is there.
        sh("mount -t tmpfs tmpfs /run && mkdir /run/netns && ip link set lo up");
        return body();
    }
    let module = module.split_once("::").map_or("", |(_, module)| module);
    let name = format!("{module}::{test}");
    let me = std::env::current_exe().unwrap();
    let output = Command::new("unshare")
        .args(["--net", "--mount", "--"])
        .arg(me)
        .args([name.as_str(), "--exact", "--nocapture", "--include-ignored", "--test-threads=1"])
        .env(INSIDE, "1")
        .output()
        .unwrap();
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    println!("{text}");
    crisp_skip::forward(test, &text);
    assert!(output.status.success(), "{test} failed on its private host");
    assert!(text.contains("1 passed"), "{test} is not the test's name");
}

/// Runs a shell line and returns what it printed.
pub fn sh(line: &str) -> String {
    let output = Command::new("sh").args(["-ec", line]).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{line}: {error}");
    String::from_utf8(output.stdout).unwrap()
}

type Job = Box<dyn FnOnce() + Send>;

/// A network namespace held by a thread, as a monitor holds a pod's.
pub struct Namespace {
    pub id: PodId,
    pub netlink: PodNetlink,
    pub netns: Arc<OwnedFd>,
    jobs: Sender<Job>,
}

impl Namespace {
    pub fn new() -> Self {
        let (jobs, queue) = channel::<Job>();
        let (ready, made) = channel();
        std::thread::spawn(move || {
            #[allow(deprecated)]
            rustix::thread::unshare(rustix::thread::UnshareFlags::NEWNET).unwrap();
            let socket =
                socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None).unwrap();
            let netns = std::fs::File::open("/proc/thread-self/ns/net").unwrap();
            ready.send((socket, OwnedFd::from(netns))).unwrap();
            queue.iter().for_each(|job| job());
        });
        let (socket, netns) = made.recv().unwrap();
        Self { id: PodId::random(), netlink: PodNetlink::new(socket), netns: Arc::new(netns), jobs }
    }

    /// Runs something inside. Processes started there are inside as well.
    pub fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (send, receive) = channel();
        self.jobs.send(Box::new(move || drop(send.send(job())))).unwrap();
        receive.recv().expect("the job inside the namespace panicked")
    }

    pub fn sh(&self, line: &str) -> String {
        let line = line.to_owned();
        self.run(move || sh(&line))
    }

    pub fn request(&self, ports: &[PortMapping]) -> AttachRequest {
        AttachRequest {
            pod: self.id.clone(),
            name: "web".to_owned(),
            namespace: "default".to_owned(),
            uid: "uid-1".to_owned(),
            netlink: self.netlink.clone(),
            netns: Arc::clone(&self.netns),
            port_mappings: ports.to_vec(),
            annotations: BTreeMap::new(),
            dns: DnsSettings::default(),
            cgroup: None,
            cancel: Cancel::new(),
        }
    }

    pub async fn attach(
        &self,
        networks: &Networks,
        ports: &[PortMapping],
    ) -> Result<Attachment, NetworkError> {
        networks.attach(self.request(ports)).await
    }
}

pub fn config(dir: &Path) -> NetworkConfig {
    NetworkConfig {
        kind: NetworkKind::CniOrBuiltIn,
        cni_conf_dir: dir.join("net.d"),
        cni_replace_grace: Duration::ZERO,
        cni_bin_dirs: vec!["/usr/lib/cni".into()],
        cni_deadline: DEFAULT_CNI_DEADLINE,
        cni_conf_template: None,
        cni_cache_dir: dir.join("cache"),
        cni_check_interval: None,
        collect_interval: Duration::from_secs(300),
        cni_gc: false,
        pod_cidrs: "10.88.0.0/16".parse().unwrap(),
        pod_cidrs_v6: "fd88::/64".parse().unwrap(),
        masquerade_except: Default::default(),
        bridge_name: "crisp0".to_owned(),
        state_dir: dir.join("state"),
        root_dir: dir.join("root"),
    }
}

pub fn port(protocol: Protocol, host_port: u16, container_port: u16) -> PortMapping {
    PortMapping { protocol, container_port, host_port, host_ip: None }
}

/// The state that must be the same before and after: interfaces, addresses, packet rules, mounts.
pub fn traces() -> String {
    sh(
        "ip -o -4 addr; ip -o -6 addr show scope global; ip -o link | cut -d: -f2; nft list ruleset; cat /proc/self/mounts; ls -A /run",
    )
}

pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
        .block_on(future)
}

/// A lost first packet is sent again after a second: nothing may be lost.
pub const SECOND: Duration = Duration::from_secs(1);

/// Listens inside and answers every connection with the address it came from.
pub fn tell_callers_who_they_are(namespace: &Namespace, port: u16) {
    namespace.run(move || tell_callers_who_they_are_on_host(port));
}

/// Listens on the host, in the same way.
pub fn tell_callers_who_they_are_on_host(port: u16) {
    let listener = TcpListener::bind(("::", port)).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let peer = stream.peer_addr().unwrap().ip().to_canonical().to_string();
            let _ = stream.write_all(peer.as_bytes());
        }
    });
}

/// Asks from inside the namespace.
pub fn ask_from(namespace: &Namespace, address: &str) -> Result<String, String> {
    let address = address.to_owned();
    namespace.run(move || ask(&address))
}

/// As [`ask`], over a link that has just come up: the kernel may lose what passes in the moment in which the
/// bridge begins to forward.
pub fn ask_twice(address: &str) -> Result<String, String> {
    ask(address).or_else(|_| ask(address))
}

pub fn ask(address: &str) -> Result<String, String> {
    let address: SocketAddr = address.parse().unwrap();
    let mut stream = TcpStream::connect_timeout(&address, SECOND).map_err(|e| e.to_string())?;
    stream.set_read_timeout(Some(SECOND)).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).map_err(|e| e.to_string())?;
    Ok(text)
}

/// Another machine, reached by the host's interface up0 (192.0.2.1 and .2, 2001:db8::1 and ::2).
pub fn outside() -> Namespace {
    let outside = Namespace::new();
    let fd = std::os::fd::AsRawFd::as_raw_fd(&*outside.netns);
    sh(&format!(
        "ip link add up0 type veth peer name up1 && ip link set up1 netns /proc/{}/fd/{fd} &&
         ip addr add 192.0.2.1/24 dev up0 && ip addr add 2001:db8::1/64 dev up0 nodad && ip link set up0 up &&
         ip route add default via 192.0.2.2 && ip -6 route add default via 2001:db8::2",
        std::process::id()
    ));
    outside.sh("ip link set lo up; ip addr add 192.0.2.2/24 dev up1; ip addr add 2001:db8::2/64 dev up1 nodad; ip link set up1 up; until ip link show up1 | grep -q 'state UP'; do sleep 0.01; done");
    sh("until ip link show up0 | grep -q 'state UP'; do sleep 0.01; done");
    outside
}

pub fn ip(attachment: &Attachment) -> String {
    attachment.ips[0].to_string()
}

/// Detaches the pods that are no more, as a server does at its start.
pub trait CollectGarbage {
    fn collect_garbage(
        &self,
        live: &[PodId],
    ) -> impl Future<Output = Result<Vec<PodId>, NetworkError>> + Send;
}

impl CollectGarbage for Networks {
    async fn collect_garbage(&self, live: &[PodId]) -> Result<Vec<PodId>, NetworkError> {
        self.collect(self.recorded().into_iter().filter(|pod| !live.contains(pod)).collect()).await
    }
}
