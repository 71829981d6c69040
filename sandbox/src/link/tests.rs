//! The link against monitors of other releases: a socket with the responses that they would send.

use std::collections::BTreeSet;
use std::io::Read;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use crisp_executor::ids::{ContainerId, PodId};
use crisp_executor::plan::{CgroupJoin, FdIndex, PidNamespace, Plan, Process, Root};
use crisp_monitor::wire::request::{KillExec, OpenPod};
use crisp_monitor::wire::response::{PodOpened, StdinOpened};
use crisp_monitor::wire::{Failure, Header, Message, Op, PROTOCOL, Packet, Request, Response, packet};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::{AsFd, OwnedFd};
use rustix::net::accept;

use super::connect::listen;
use super::{ExecRequest, Greeting, LinkError, MonitorLink, PodReport, StartRequest, Started, WindowSize};

const DEADLINE: Duration = Duration::from_secs(20);

/// Serves one connection until it is closed or shut down, and answers every request.
struct Peer {
    socket: PathBuf,
    _folder: tempfile::TempDir,
    served: std::thread::JoinHandle<Vec<Packet>>,
}

impl Peer {
    fn of_protocol(protocol: u16) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("monitor.sock");
        let listener = listen(&socket).unwrap();
        let served = std::thread::spawn(move || serve(&listener, protocol));
        Self { socket, _folder: folder, served }
    }
}

/// Sends the greeting, then reads nothing until `go`; returns the execs that were requested and not killed,
/// when all were killed or nothing more comes.
fn serve_late(listener: &OwnedFd, go: &Receiver<()>) -> (usize, BTreeSet<u64>) {
    let connection = accept(listener).unwrap();
    let ready = |seconds| {
        let timeout = rustix::event::Timespec { tv_sec: seconds, tv_nsec: 0 };
        poll(&mut [PollFd::new(&connection, PollFlags::IN)], Some(&timeout)).unwrap() > 0
    };
    assert!(ready(20));
    let hello = packet::receive(&connection).unwrap().unwrap();
    let Message { body, .. } = respond(Op::Hello, PROTOCOL);
    packet::send(&connection, hello.header.response(false), &body, &[]).unwrap();
    go.recv().unwrap();
    let (mut execs, mut left) = (0, BTreeSet::new());
    while (execs == 0 || !left.is_empty()) && ready(5) {
        let Ok(Some(Packet { header, body, fds })) = packet::receive(&connection) else { break };
        let message = Message { body, fds };
        if header.op == Op::Exec as u16 {
            execs += 1;
            left.insert(ExecRequest::decode(message, header.version).unwrap().exec_id);
        } else {
            left.remove(&KillExec::decode(message, header.version).unwrap().exec);
        }
    }
    (execs, left)
}

fn serve(listener: &OwnedFd, protocol: u16) -> Vec<Packet> {
    let ready = |fd: &OwnedFd| poll(&mut [PollFd::new(fd, PollFlags::IN)], None).map(drop).unwrap();
    ready(listener);
    let connection = accept(listener).unwrap();
    let mut requests = Vec::new();
    loop {
        ready(&connection);
        let Ok(Some(request)) = packet::receive(&connection) else { return requests };
        let op = Op::from_number(request.header.op).unwrap();
        if matches!(op, Op::HoldPorts | Op::CopyPorts) {
            // As a monitor that is older than these.
            let body = Failure::UnknownOperation { op: request.header.op }.encode().unwrap();
            packet::send(&connection, request.header.response(true), &body, &[]).unwrap();
            continue;
        }
        let Message { body, fds } = respond(op, protocol);
        let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        packet::send(&connection, request.header.response(false), &body, &fds).unwrap();
        requests.push(request);
        if op == Op::Shutdown {
            return requests;
        }
    }
}

fn respond(op: Op, protocol: u16) -> Message {
    match op {
        Op::Hello => {
            let pod = PodId::random();
            Greeting { protocol, build: "other".into(), pod, pid: 1, opened: true }.encode()
        }
        Op::Report => PodReport { opened: true, init: None, containers: vec![] }.encode(),
        Op::Start | Op::Exec => {
            Started { pid: 7, started_at_ns: 8, notes: vec![], terminal: None, ended: None }.encode()
        }
        Op::OpenStdin => StdinOpened { stdin: null() }.encode(),
        _ => ().encode(),
    }
    .unwrap()
}

fn null() -> OwnedFd {
    std::fs::File::open("/dev/null").unwrap().into()
}

fn process() -> Process {
    Process {
        args: vec![c"a".into(), c"b".into(), c"c".into()],
        env: vec![],
        cwd: c"/".into(),
        uid: 0,
        gid: 0,
        groups: vec![],
        umask: None,
        capabilities: Default::default(),
        no_new_privileges: false,
        rlimits: vec![],
        seccomp: None,
        oom_score_adj: None,
        apparmor_profile: None,
        terminal: false,
    }
}

fn start(container: &ContainerId) -> StartRequest {
    let plan = Plan {
        process: process(),
        root: Root { mount: FdIndex(0), readonly: false, shared: false },
        mounts: vec![],
        devices: vec![],
        masked_paths: vec![],
        readonly_paths: vec![],
        pid: PidNamespace::Own,
        cgroup_namespace: false,
        hooks: None,
        cgroup: CgroupJoin::default(),
    };
    let container = container.clone();
    StartRequest {
        container,
        plan,
        log: None,
        fds: vec![null()],
        stdin: false,
        stdin_once: false,
        size: None,
    }
}

fn exec(exec_id: u64, container: &ContainerId) -> ExecRequest {
    ExecRequest {
        exec_id,
        container: container.clone(),
        process: process(),
        cgroup: CgroupJoin::default(),
        stdin: None,
        stdout: None,
        stderr: None,
        fds: vec![],
        size: None,
        grace_ms: 0,
        late_response: false,
    }
}

/// Every request except opening the pod: a server opens pods only with its own monitor.
async fn everything(link: &MonitorLink) -> Result<(), LinkError> {
    let id = ContainerId::random();
    assert!(link.report().await?.containers.is_empty());
    assert_eq!(link.start(start(&id)).await?.pid, 7);
    link.exec(ExecRequest { stdout: Some(null()), ..exec(5, &id) }).await?;
    link.kill_exec(5).await?;
    link.signal(&id, 15, false).await?;
    link.reopen_log(&id, null()).await?;
    link.resize(&id, WindowSize { columns: 80, rows: 24 }).await?;
    link.open_stdin(&id).await?;
    link.close_stdin(&id).await?;
    link.attach(&id, Some(null()), None).await?;
    link.forget(&id).await?;
    link.shutdown(true).await
}

/// The requests that a peer received after the greeting.
async fn requests(protocol: u16) -> Vec<Packet> {
    let peer = Peer::of_protocol(protocol);
    let link = MonitorLink::connect(&peer.socket, DEADLINE).await.unwrap();
    assert_eq!(link.greeting().protocol, protocol);
    everything(&link).await.unwrap();
    let mut requests = peer.served.join().unwrap();
    assert_eq!(requests.remove(0).header.op, Op::Hello as u16);
    assert_eq!(requests.len(), 12);
    requests
}

/// The first byte of the plan in a start or exec request.
fn plan_starts_with(requests: &[Packet], op: Op) -> u8 {
    let request = requests.iter().find(|request| request.header.op == op as u16).unwrap();
    let mut plan = std::fs::File::from(request.fds[0].try_clone().unwrap());
    let mut byte = [0];
    std::io::Seek::rewind(&mut plan).unwrap();
    plan.read_exact(&mut byte).unwrap();
    byte[0]
}

#[tokio::test]
async fn an_older_monitor_is_asked_for_everything_in_its_own_protocol() {
    let requests = requests(1).await;
    assert!(requests.iter().all(|Packet { header: Header { version, .. }, .. }| *version == 1));
    for op in [Op::Start, Op::Exec] {
        assert_eq!(plan_starts_with(&requests, op), 3, "postcard: the number of arguments");
    }
}

#[tokio::test]
async fn a_newer_monitor_is_asked_in_the_protocol_of_this_server() {
    let requests = requests(PROTOCOL + 7).await;
    assert!(requests.iter().all(|request| request.header.version == PROTOCOL));
    for op in [Op::Start, Op::Exec] {
        let request = requests.iter().find(|request| request.header.op == op as u16).unwrap();
        assert!(request.body.windows(4).any(|bytes| bytes == b"args"), "the plan is in the body");
    }
}

#[tokio::test]
async fn a_monitor_of_protocol_2_gets_its_plans_in_a_memfd() {
    let requests = requests(2).await;
    for op in [Op::Start, Op::Exec] {
        assert_eq!(plan_starts_with(&requests, op) & 0xf0, 0x80, "MessagePack: a map");
    }
}

#[tokio::test]
async fn a_monitor_that_knows_nothing_of_host_ports_holds_none() {
    let peer = Peer::of_protocol(PROTOCOL);
    let link = MonitorLink::connect(&peer.socket, DEADLINE).await.unwrap();
    assert!(link.copy_ports().await.unwrap().is_empty());
    let refused = link.hold_ports(vec![null()]).await.unwrap_err();
    assert!(matches!(refused.failure(), Some(Failure::UnknownOperation { .. })), "{refused}");
    link.shutdown(true).await.unwrap();
    peer.served.join().unwrap();
}

fn open_request() -> OpenPod {
    OpenPod {
        hostname: None,
        network: false,
        joined_network: None,
        ipc: true,
        shared_pid: false,
        sysctls: vec![],
        shm_bytes: 1 << 20,
        exits: null(),
        cgroup_v2: None,
        cgroup_v1_tasks: vec![null()],
        user: None,
        host_ports: vec![],
    }
}

/// The result of opening a pod at a monitor that does `answer`, once what runs beside it has run.
async fn opened_by(
    answer: impl FnOnce(&OwnedFd, Packet) + Send + 'static,
    waits: impl Fn() -> bool + Send + 'static,
) -> (MonitorLink, Result<Option<PodOpened>, LinkError>) {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("monitor.sock");
    let listener = listen(&socket).unwrap();
    let (go, works) = channel();
    let served = std::thread::spawn(move || {
        let ready = |fd: &OwnedFd| poll(&mut [PollFd::new(fd, PollFlags::IN)], None).map(drop).unwrap();
        ready(&listener);
        let connection = accept(&listener).unwrap();
        ready(&connection);
        let request = packet::receive(&connection).unwrap().unwrap();
        works.recv().unwrap();
        answer(&connection, request);
    });
    let opened = tokio::task::spawn_blocking(move || {
        let meanwhile = || go.send(()).unwrap();
        MonitorLink::open_fresh(&socket, (&PodId::random(), 7), open_request(), meanwhile, waits).unwrap()
    });
    let opened = opened.await.unwrap();
    served.join().unwrap();
    opened
}

#[tokio::test]
async fn a_fresh_monitor_opens_its_pod_while_the_caller_works_and_is_then_a_link() {
    let serve_on = |connection: &OwnedFd, request: Packet| {
        assert_eq!((request.header.op, request.header.version), (Op::OpenPod as u16, PROTOCOL));
        assert_eq!(
            OpenPod::decode(Message { body: request.body, fds: request.fds }, PROTOCOL).unwrap().shm_bytes,
            1 << 20
        );
        let connection = connection.try_clone().unwrap();
        // An event before the response is not taken for it.
        packet::send(&connection, Header::event(), b"?", &[]).unwrap();
        let Message { body, .. } = PodOpened { pid: 7, init: None, network: None }.encode().unwrap();
        packet::send(&connection, request.header.response(false), &body, &[]).unwrap();
        std::thread::spawn(move || {
            poll(&mut [PollFd::new(&connection, PollFlags::IN)], None).unwrap();
            let next = packet::receive(&connection).unwrap().unwrap();
            assert_ne!(next.header.id, request.header.id);
            let Message { body, .. } = respond(Op::from_number(next.header.op).unwrap(), PROTOCOL);
            packet::send(&connection, next.header.response(false), &body, &[]).unwrap();
        });
    };
    let (link, opened) = opened_by(serve_on, || true).await;
    assert_eq!(opened.unwrap().unwrap().pid, 7);
    assert_eq!((link.greeting().pid, link.greeting().protocol), (7, PROTOCOL));
    let mut events = link.events();
    assert!(link.report().await.unwrap().containers.is_empty());
    // The monitor has closed the connection by now, or does so.
    let closed = async { while events.recv().await.is_ok() {} };
    tokio::time::timeout(DEADLINE, closed).await.unwrap();
    assert!(link.is_closed());
}

#[tokio::test]
async fn a_fresh_monitor_that_ends_one_that_refuses_and_a_silent_one_are_different_failures() {
    let (_, opened) = opened_by(|_, _| {}, || true).await;
    let error = opened.unwrap_err();
    assert!(matches!(&error, LinkError::Gone { request: "open pod", .. }), "{error:?}");
    let refuse = |connection: &OwnedFd, request: Packet| {
        let body = Failure::AlreadyOpen.encode().unwrap();
        packet::send(connection, request.header.response(true), &body, &[]).unwrap();
    };
    let (_, opened) = opened_by(refuse, || true).await;
    assert!(matches!(opened.unwrap_err().failure(), Some(Failure::AlreadyOpen)));
    let (done, until) = channel();
    let silent = move |_: &OwnedFd, _: Packet| until.recv().unwrap();
    let calls = std::sync::atomic::AtomicUsize::new(0);
    let waits = move || {
        let goes_on = calls.fetch_add(1, std::sync::atomic::Ordering::SeqCst) < 5;
        if !goes_on {
            done.send(()).unwrap();
        }
        goes_on
    };
    let (_, opened) = opened_by(silent, waits).await;
    assert!(opened.unwrap().is_none());
}

/// A monitor whose thread is blocked by a slow disk, and clients that leave meanwhile: it must not run their
/// commands later.
#[tokio::test]
async fn execs_that_were_given_up_are_killed_however_late_the_monitor_reads() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("monitor.sock");
    let listener = listen(&socket).unwrap();
    rustix::io::ioctl_fionbio(&listener, false).unwrap();
    let (go, wait) = channel();
    let served = tokio::task::spawn_blocking(move || serve_late(&listener, &wait));
    let link = MonitorLink::connect(&socket, DEADLINE).await.unwrap();
    let container = ContainerId::random();
    let mut execs = tokio::task::JoinSet::new();
    // More than the socket's buffer can hold.
    for id in 0..400 {
        let (link, request) = (link.clone(), exec(id, &container));
        execs.spawn(async move { link.exec(request).await });
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    execs.shutdown().await;
    go.send(()).unwrap();
    let (arrived, left) = served.await.unwrap();
    assert!((10..400).contains(&arrived), "the socket was full: {arrived}");
    assert_eq!(left, BTreeSet::new());
}
