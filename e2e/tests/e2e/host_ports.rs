//! Host ports stay those of their pod while no server runs, and are free at once when it is stopped.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crisp_e2e::{Lab, Result, needs, request};
use k8s_cri::v1::{PodSandboxStatusRequest, PortMapping, Protocol, StopPodSandboxRequest};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, ipproto, socket_with};
use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

const PATIENCE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(2);
const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const ALL_V6: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);

fn mapping(protocol: Protocol, host_port: u16, host_ip: &str) -> PortMapping {
    PortMapping {
        protocol: protocol.into(),
        container_port: 80,
        host_port: host_port.into(),
        host_ip: host_ip.into(),
    }
}

/// Whether another program of the host gets the port; it closes it again.
fn is_free(protocol: Protocol, address: SocketAddr) -> Result<bool> {
    let bound = match protocol {
        Protocol::Tcp => TcpListener::bind(address).map(drop),
        Protocol::Udp => UdpSocket::bind(address).map(drop),
        Protocol::Sctp => bind_sctp(address).map_err(Into::into),
    };
    match bound {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn bind_sctp(address: SocketAddr) -> std::result::Result<(), Errno> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, Some(ipproto::SCTP))?;
    bind(&socket, &address)
}

/// Ports that no other test here gets, and no outgoing connection.
fn free_ports(count: usize) -> Result<Vec<u16>> {
    static TAKEN: Mutex<u16> = Mutex::new(0);
    let mut taken = TAKEN.lock().map_err(|_| "a test panicked with the lock")?;
    // Tests of other processes begin at other ports.
    let begin = 20_000 + u16::try_from(std::process::id() % 16)? * 700;
    let mut ports = Vec::new();
    while ports.len() < count {
        let port = begin + *taken;
        *taken += 1;
        let any = SocketAddr::new(ALL_V6, port);
        if is_free(Protocol::Tcp, any)? && is_free(Protocol::Udp, any)? {
            ports.push(port);
        }
    }
    Ok(ports)
}

fn has_sctp() -> bool {
    bind_sctp(SocketAddr::new(LOOPBACK, 0)).is_ok()
}

/// The addresses that no program of the host gets while a pod has them.
struct Reserved(Vec<(Protocol, SocketAddr)>);

impl Reserved {
    /// The addresses that are tried for each mapping.
    fn of(mappings: &[PortMapping]) -> Result<Self> {
        let mut all = Vec::new();
        for mapping in mappings {
            let tried: &[&str] = match mapping.host_ip.as_str() {
                "" => &["127.0.0.1", "0.0.0.0", "::1", "::"],
                "127.0.0.1" => &["127.0.0.1", "0.0.0.0"],
                _ => &["::1", "::"],
            };
            for address in tried {
                let address = SocketAddr::new(address.parse()?, u16::try_from(mapping.host_port)?);
                all.push((mapping.protocol(), address));
            }
        }
        Ok(Self(all))
    }

    #[track_caller]
    fn must_be(&self, free: bool, when: &str) {
        for (protocol, address) in &self.0 {
            assert_eq!(is_free(*protocol, *address).ok(), Some(free), "{when}: {address} ({protocol:?})");
        }
    }
}

/// Serves port 80 of the pod, TCP and UDP, and asks for it all the time at addresses of the host.
struct Traffic {
    ends: Arc<AtomicBool>,
    answers: Arc<AtomicUsize>,
    asking: Vec<Repeated>,
    /// It serves until the last answer has come.
    serving: (Arc<AtomicBool>, Repeated),
}

type Repeated = JoinHandle<std::result::Result<(), String>>;

/// Does it until `ends` is set or it fails; counts the answers that `work` got.
fn repeat(
    ends: &Arc<AtomicBool>,
    answers: &Arc<AtomicUsize>,
    mut work: impl FnMut() -> std::result::Result<usize, String> + Send + 'static,
) -> Repeated {
    let (ends, answers) = (ends.clone(), answers.clone());
    std::thread::spawn(move || {
        while !ends.load(Ordering::Relaxed) {
            answers.fetch_add(work()?, Ordering::Relaxed);
            std::thread::sleep(PAUSE);
        }
        Ok(())
    })
}

impl Traffic {
    fn start(monitor: i32, tcp: &[SocketAddr], udp: SocketAddr) -> Result<Self> {
        let namespace = std::fs::File::open(format!("/proc/{monitor}/ns/net"))?;
        let sockets = std::thread::spawn(move || -> std::io::Result<(TcpListener, UdpSocket)> {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
            Ok((TcpListener::bind((ALL_V6, 80))?, UdpSocket::bind((ALL_V6, 80))?))
        });
        let (listener, socket) = sockets.join().map_err(|_| "the thread in the pod's network ended")??;
        listener.set_nonblocking(true)?;
        socket.set_nonblocking(true)?;
        let (ends, answers) = (Arc::default(), Arc::default());
        let serving_ends = Arc::default();
        let serving = repeat(&serving_ends, &answers, move || serve(&listener, &socket));
        let mut asking = Vec::new();
        for address in tcp.iter().copied() {
            let ask = move || ask_tcp(address).map_err(|error| format!("tcp {address}: {error}"));
            asking.push(repeat(&ends, &answers, ask));
        }
        asking.push(repeat(&ends, &answers, move || {
            ask_udp(udp).map_err(|error| format!("udp {udp}: {error}"))
        }));
        Ok(Self { ends, answers, asking, serving: (serving_ends, serving) })
    }

    /// Waits for more answers.
    async fn goes_on(&self, when: &str) -> Result<()> {
        let before = self.answers.load(Ordering::Relaxed);
        let more = async {
            while self.answers.load(Ordering::Relaxed) < before + 20 {
                tokio::time::sleep(PAUSE).await;
            }
        };
        Ok(tokio::time::timeout(PATIENCE, more).await.map_err(|_| format!("no traffic {when}"))?)
    }

    /// Fails when one request had no answer.
    fn end(self) -> Result<()> {
        self.ends.store(true, Ordering::Relaxed);
        for thread in self.asking {
            thread.join().map_err(|_| "a client panicked")??;
        }
        let (ends, thread) = self.serving;
        ends.store(true, Ordering::Relaxed);
        Ok(thread.join().map_err(|_| "the server in the pod panicked")??)
    }
}

fn serve(listener: &TcpListener, socket: &UdpSocket) -> std::result::Result<usize, String> {
    while let Ok((mut stream, _)) = listener.accept() {
        let _ = stream.write_all(b"over tcp");
    }
    while let Ok((_, from)) = socket.recv_from(&mut [0; 8]) {
        let _ = socket.send_to(b"over udp", from);
    }
    Ok(0)
}

fn ask_tcp(address: SocketAddr) -> std::io::Result<usize> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    (answer == "over tcp").then_some(1).ok_or_else(|| std::io::Error::other(answer))
}

fn ask_udp(address: SocketAddr) -> std::io::Result<usize> {
    let socket = UdpSocket::bind((LOOPBACK, 0))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.send_to(b"?", address)?;
    let mut answer = [0; 8];
    let (length, _) = socket.recv_from(&mut answer)?;
    (answer[..length] == *b"over udp").then_some(1).ok_or_else(|| std::io::Error::other("another answer"))
}

/// The kinds of descriptors that a process has open.
fn descriptors(pid: i32) -> Result<Vec<String>> {
    let kind = |entry: std::io::Result<std::fs::DirEntry>| -> Result<String> {
        let target = std::fs::read_link(entry?.path())?.to_string_lossy().into_owned();
        Ok(target.split(['[', '(']).next().unwrap_or_default().to_owned())
    };
    let mut kinds: Vec<String> =
        std::fs::read_dir(format!("/proc/{pid}/fd"))?.map(kind).collect::<Result<_>>()?;
    kinds.sort();
    Ok(kinds)
}

/// Waits until the monitor has the descriptors again that it had: an earlier server's connection is closed late.
async fn has_again(monitor: i32, expected: &[String]) -> Result<()> {
    let mut now = descriptors(monitor)?;
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE {
        if now == expected {
            return Ok(());
        }
        tokio::time::sleep(PAUSE).await;
        now = descriptors(monitor)?;
    }
    Err(format!("the monitor had {expected:?}, has {now:?}").into())
}

fn the_monitor(lab: &Lab, pod: &str) -> Result<i32> {
    match lab.machine.monitors(pod)[..] {
        [monitor] => Ok(monitor),
        ref others => Err(format!("pod {pod} has the monitors {others:?}").into()),
    }
}

async fn run_pod(lab: &mut Lab, name: &str, mappings: &[PortMapping]) -> Result<String> {
    let mut sandbox = request::pod(&lab.machine, name);
    sandbox.port_mappings = mappings.to_vec();
    let pod = lab.client.run_pod(&sandbox).await?;
    // The monitor starts processes, none of which gets its sockets.
    let list = "ls -l /proc/self/fd; while :; do sleep 1; done";
    let container = lab.client.launch(&pod, &lab.shell(list), &sandbox).await?;
    let listed = lab.client.exec(&container, &["ls", "-l", "/proc/self/fd", "/proc/1/fd"]).await?;
    assert!(!String::from_utf8_lossy(&listed.stdout).contains("socket:"), "{listed:?}");
    assert!(!lab.machine.container_log(name, "main")?.contains("socket:"));
    Ok(pod)
}

async fn stop_pod(lab: &mut Lab, pod: &str) -> Result<()> {
    let request = StopPodSandboxRequest { pod_sandbox_id: pod.to_owned() };
    lab.client.runtime.stop_pod_sandbox(request).await?;
    Ok(())
}

async fn start_server(lab: &mut Lab) -> Result<()> {
    lab.machine.start_server().await?;
    lab.client = lab.machine.client().await?;
    Ok(())
}

/// The gateway of the pod's IPv6 network: an address of the host.
async fn gateway_v6(lab: &mut Lab, pod: &str) -> Result<IpAddr> {
    let request = PodSandboxStatusRequest { pod_sandbox_id: pod.to_owned(), verbose: false };
    let status = lab.client.runtime.pod_sandbox_status(request).await?.into_inner().status;
    let ips = status.and_then(|status| status.network).ok_or("no network")?.additional_ips;
    let address: Ipv6Addr = ips.first().ok_or("no IPv6 address")?.ip.parse()?;
    let network = u128::from(address) >> 64 << 64;
    Ok(Ipv6Addr::from(network | 1).into())
}

#[tokio::test(flavor = "multi_thread")]
async fn no_program_gets_the_ports_of_a_pod_while_no_server_runs() -> Result<()> {
    needs!("docker-registry", "busybox");
    let mut lab = Lab::start().await?;
    let [tcp, udp, on_v4, on_v6] = free_ports(4)?[..] else { return Err("four ports were asked for".into()) };
    let mut mappings = vec![
        mapping(Protocol::Tcp, tcp, ""),
        mapping(Protocol::Udp, udp, ""),
        mapping(Protocol::Tcp, on_v4, "127.0.0.1"),
        mapping(Protocol::Udp, on_v6, "::"),
    ];
    if has_sctp() {
        mappings.push(mapping(Protocol::Sctp, tcp, ""));
    }
    let reserved = Reserved::of(&mappings)?;
    reserved.must_be(true, "before the pod");
    // Twice: the second pod has the ports of the first.
    for round in 0..2 {
        let pod = run_pod(&mut lab, &format!("ports{round}"), &mappings).await?;
        let monitor = the_monitor(&lab, &pod)?;
        let before = descriptors(monitor)?;
        let over_v6 = SocketAddr::new(gateway_v6(&mut lab, &pod).await?, tcp);
        let over_v4 = [SocketAddr::new(LOOPBACK, tcp), SocketAddr::new(LOOPBACK, on_v4)];
        let at = [over_v4[0], over_v4[1], over_v6];
        let traffic = Traffic::start(monitor, &at, SocketAddr::new(LOOPBACK, udp))?;
        for how in ["killed", "stopped"] {
            reserved.must_be(false, "with the server");
            traffic.goes_on("with the server").await?;
            match how {
                "killed" => lab.machine.kill_server(),
                _ => lab.machine.stop_server()?,
            }
            reserved.must_be(false, how);
            traffic.goes_on(how).await?;
            start_server(&mut lab).await?;
            reserved.must_be(false, "with the next server");
            traffic.goes_on("with the next server").await?;
            has_again(monitor, &before).await?;
        }
        traffic.end()?;
        stop_pod(&mut lab, &pod).await?;
        reserved.must_be(true, "after the stop");
    }
    assert!(!lab.machine.log().contains("is not held"), "{}", lab.machine.log());
    lab.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ports_of_a_pod_whose_monitor_died_are_held_by_the_server_until_the_stop() -> Result<()> {
    needs!("docker-registry", "busybox");
    let mut lab = Lab::start().await?;
    let port = free_ports(1)?[0];
    let mappings = [mapping(Protocol::Tcp, port, ""), mapping(Protocol::Udp, port, "")];
    let reserved = Reserved::of(&mappings)?;
    for died_without_a_server in [false, true] {
        let pod = run_pod(&mut lab, &format!("lost-{died_without_a_server}"), &mappings).await?;
        let monitor = Pid::from_raw(the_monitor(&lab, &pod)?).ok_or("no monitor")?;
        lab.machine.kill_server();
        if !died_without_a_server {
            // It has copies of the monitor's sockets.
            start_server(&mut lab).await?;
        }
        kill_process(monitor, Signal::KILL)?;
        while std::fs::exists(format!("/proc/{}/ns/net", monitor.as_raw_nonzero()))? {
            tokio::time::sleep(PAUSE).await;
        }
        if died_without_a_server {
            start_server(&mut lab).await?;
        }
        reserved.must_be(false, "after the monitor's end");
        stop_pod(&mut lab, &pod).await?;
        reserved.must_be(true, "after the stop");
    }
    lab.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn hundreds_of_ports_are_held_as_well() -> Result<()> {
    needs!("docker-registry", "busybox");
    let mut lab = Lab::start().await?;
    // More than one message to the monitor has room for.
    let mappings: Vec<_> =
        free_ports(600)?.into_iter().map(|port| mapping(Protocol::Udp, port, "")).collect();
    let reserved = Reserved::of(&mappings)?;
    let pod = run_pod(&mut lab, "many", &mappings).await?;
    let before = descriptors(the_monitor(&lab, &pod)?)?;
    assert!(before.iter().filter(|kind| *kind == "socket:").count() > 600);
    lab.machine.kill_server();
    reserved.must_be(false, "without a server");
    start_server(&mut lab).await?;
    has_again(the_monitor(&lab, &pod)?, &before).await?;
    reserved.must_be(false, "with the next server");
    stop_pod(&mut lab, &pod).await?;
    reserved.must_be(true, "after the stop");
    lab.close().await
}
