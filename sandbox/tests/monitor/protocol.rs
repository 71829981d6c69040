//! Old and new, broken and hostile clients.

use std::time::Duration;

use crisp_monitor::wire::packet::{receive, send};
use crisp_monitor::wire::request::{Forget, Shutdown, Signal};
use crisp_monitor::wire::{Failure, Header, Kind, Message, Op, PROTOCOL, Packet, Request, response};
use rustix::fd::{AsFd, OwnedFd};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use crate::harness::{DEADLINE, Pod, exit_of, gone, missing};
use crate::plans::plan;

/// A client of another release: only the envelope is ours.
struct Raw(OwnedFd);

impl Raw {
    fn connect(pod: &Pod) -> Self {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket =
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
        let address = SocketAddrUnix::new(pod.link.socket()).unwrap();
        while let Err(errno) = rustix::net::connect(&socket, &address) {
            assert_eq!(errno, rustix::io::Errno::AGAIN, "more than the backlog holds");
            std::thread::sleep(Duration::from_millis(1));
        }
        Self(socket)
    }

    async fn ask(&self, header: Header, body: &[u8]) -> Packet {
        send(&self.0, header, body, &[]).unwrap();
        self.expect(Kind::Response).await
    }

    async fn expect(&self, kind: Kind) -> Packet {
        for _ in 0..500 {
            if let Some(packet) = receive(&self.0).unwrap() {
                assert_eq!(packet.header.kind, kind);
                return packet;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("no {kind:?} came");
    }
}

fn failure(packet: &Packet) -> Failure {
    assert!(packet.header.failed);
    postcard::from_bytes(&packet.body).unwrap()
}

#[tokio::test]
async fn a_newer_server_can_ask_signal_and_end_an_older_monitor() {
    if missing() {
        return;
    }
    let pod = Pod::open().await;
    let (id, _) = pod.start(&plan(&["/bin/busybox", "sleep", "1000"])).await.unwrap();
    let client = Raw::connect(&pod);
    let newer = |op, id| Header { version: PROTOCOL + 1, ..Header::request(op, id) };

    let refused = client.ask(newer(Op::Network, 1), b"").await;
    assert_eq!(failure(&refused), Failure::Version { monitor: PROTOCOL, client: PROTOCOL + 1 });
    assert_eq!((refused.header.id, refused.header.kind), (1, Kind::Response));

    let hello = client.ask(newer(Op::Hello, 2), b"").await;
    let greeting: response::Greeting = postcard::from_bytes(&hello.body).unwrap();
    assert_eq!((greeting.protocol, greeting.opened), (PROTOCOL, true));
    let report = client.ask(newer(Op::Report, 3), b"").await;
    let report: response::PodReport = postcard::from_bytes(&report.body).unwrap();
    assert_eq!(report.containers[0].id, id);
    let end = postcard::to_allocvec(&Shutdown { force: true }).unwrap();
    send(&client.0, newer(Op::Shutdown, 4), &end, &[]).unwrap();
    gone(pod.pid).await;
}

#[tokio::test]
async fn an_older_server_can_clean_up_and_end_a_newer_monitor() {
    if missing() {
        return;
    }
    let pod = Pod::open().await;
    let (id, _) = pod.start(&plan(&["/bin/busybox", "sleep", "1000"])).await.unwrap();
    let mut events = pod.link.events();
    let client = Raw::connect(&pod);
    let older = |op, id| Header { version: 1, ..Header::request(op, id) };
    let bytes = |body: Message| body.body;

    let hello = client.ask(older(Op::Hello, 1), b"").await;
    let greeting: response::Greeting = postcard::from_bytes(&hello.body).unwrap();
    assert_eq!(greeting.protocol, PROTOCOL);
    let report = client.ask(older(Op::Report, 2), b"").await;
    let report: response::PodReport = postcard::from_bytes(&report.body).unwrap();
    assert_eq!(report.containers[0].id, id);
    let signal = Signal { container: id.clone(), signal: 9, all: true };
    let signalled = client.ask(older(Op::Signal, 3), &bytes(signal.encode(1).unwrap())).await;
    assert!(!signalled.header.failed);
    exit_of(&mut events, &id).await;
    let forgotten = Forget { container: id.clone() }.encode(1).unwrap();
    // The exit itself was sent to this client too, before the response.
    client.expect(Kind::Event).await;
    let forgotten = client.ask(older(Op::Forget, 4), &bytes(forgotten)).await;
    assert!(!forgotten.header.failed);

    // Only its plans cannot be read any more.
    let null: OwnedFd = std::fs::File::open("/dev/null").unwrap().into();
    let body = postcard::to_allocvec(&(id, false, false, Option::<(u16, u16)>::None)).unwrap();
    send(&client.0, older(Op::Start, 5), &body, &[null.as_fd()]).unwrap();
    let refused = client.expect(Kind::Response).await;
    assert_eq!(failure(&refused), Failure::Version { monitor: PROTOCOL, client: 1 });
    let end = bytes(Shutdown { force: true }.encode(1).unwrap());
    send(&client.0, older(Op::Shutdown, 6), &end, &[]).unwrap();
    gone(pod.pid).await;
}

#[tokio::test]
async fn nonsense_is_answered_or_cut_off_and_the_pod_lives() {
    if missing() {
        return;
    }
    let pod = Pod::open().await;
    let client = Raw::connect(&pod);
    let unknown = client.ask(Header { op: 999, ..Header::request(Op::Hello, 1) }, b"").await;
    assert_eq!(failure(&unknown), Failure::UnknownOperation { op: 999 });
    for op in [Op::Start, Op::Exec, Op::OpenPod, Op::Signal, Op::ReopenLog, Op::Attach] {
        let packet = client.ask(Header::request(op, 2), b"\xff\xff\xff").await;
        assert!(matches!(failure(&packet), Failure::Malformed { .. }), "{op:?}: {:?}", failure(&packet));
    }
    rustix::io::write(&client.0, b"short").unwrap();
    let cut = async {
        while receive(&client.0).is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(DEADLINE, cut).await.expect("to be cut off");
    assert!(pod.link.report().await.is_ok());
    pod.shutdown().await;
}

#[tokio::test]
async fn a_client_that_never_reads_is_cut_off() {
    if missing() {
        return;
    }
    let pod = Pod::open().await;
    let client = Raw::connect(&pod);
    let header = Header::request(Op::Report, 1);
    // Until the monitor has cut it off.
    let mut sent = 0;
    loop {
        match send(&client.0, header, b"", &[]) {
            Ok(()) => sent += 1,
            Err(rustix::io::Errno::AGAIN) => tokio::time::sleep(Duration::from_millis(1)).await,
            Err(_) => break,
        }
        assert!(sent < 1_000_000);
    }
    // Within the link's own deadline.
    pod.link.report().await.unwrap();
    pod.shutdown().await;
}

#[tokio::test]
async fn dropped_requests_leave_the_link_in_order() {
    if missing() {
        return;
    }
    let pod = Pod::open().await;
    for n in 0..200_u64 {
        let _ = tokio::time::timeout(Duration::from_micros(n), pod.link.network()).await;
    }
    assert!(pod.link.report().await.unwrap().containers.is_empty());
    pod.shutdown().await;
}

/// Clock ticks that a process has spent.
fn ticks(pid: i32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

#[tokio::test]
async fn a_monitor_without_descriptors_turns_clients_away_and_does_not_spin() {
    if missing() {
        return;
    }
    let pod = Pod::open().await;
    let few = rustix::process::Rlimit { current: Some(30), maximum: Some(30) };
    let pid = rustix::process::Pid::from_raw(pod.pid);
    rustix::process::prlimit(pid, rustix::process::Resource::Nofile, few).unwrap();
    let clients: Vec<Raw> = (0..24).map(|_| Raw::connect(&pod)).collect();
    tokio::time::sleep(Duration::from_millis(200)).await;
    let before = ticks(pod.pid);
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(ticks(pod.pid) - before < 10, "{} ticks in half a second", ticks(pod.pid) - before);
    let turned_away = clients.iter().filter(|client| receive(&client.0).is_err()).count();
    assert!(turned_away > 0 && turned_away < clients.len(), "{turned_away}");
    assert!(pod.link.report().await.is_ok());
    let full = pod.start(&plan(&["/bin/busybox", "true"])).await.unwrap_err();
    assert!(full.to_string().contains("open files"), "{full}");
    drop(clients);
    tokio::time::sleep(Duration::from_millis(100)).await;
    pod.start(&plan(&["/bin/busybox", "true"])).await.unwrap();
    pod.shutdown().await;
}
