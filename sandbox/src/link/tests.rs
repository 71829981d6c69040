//! The link against monitors of other releases: a socket, and what they would answer.

use std::io::Read;
use std::path::PathBuf;
use std::time::Duration;

use crisp_executor::id::{ContainerId, PodId};
use crisp_executor::plan::{CgroupJoin, FdIndex, PidNamespace, Plan, Process, Root};
use crisp_monitor::wire::response::StdinOpened;
use crisp_monitor::wire::{Header, Message, Op, PROTOCOL, Packet, Response, packet};
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

fn serve(listener: &OwnedFd, protocol: u16) -> Vec<Packet> {
    let ready = |fd: &OwnedFd| poll(&mut [PollFd::new(fd, PollFlags::IN)], None).map(drop).unwrap();
    ready(listener);
    let connection = accept(listener).unwrap();
    let mut requests = Vec::new();
    loop {
        ready(&connection);
        let Ok(Some(request)) = packet::receive(&connection) else { return requests };
        let op = Op::from_number(request.header.op).unwrap();
        let Message { body, fds } = answer(op, protocol);
        let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        packet::send(&connection, request.header.response(false), &body, &fds).unwrap();
        requests.push(request);
        if op == Op::Shutdown {
            return requests;
        }
    }
}

fn answer(op: Op, protocol: u16) -> Message {
    match op {
        Op::Hello => {
            let pod = PodId::random();
            Greeting { protocol, build: "other".into(), pod, pid: 1, opened: true }.encode()
        }
        Op::Report => PodReport { opened: true, init: None, containers: vec![] }.encode(),
        Op::Start | Op::Exec => Started { pid: 7, started_at_ns: 8, notes: vec![], terminal: None }.encode(),
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

/// Every request there is, but for opening the pod: a server opens pods only with its own monitor.
async fn everything(link: &MonitorLink) -> Result<(), LinkError> {
    let id = ContainerId::random();
    assert!(link.report().await?.containers.is_empty());
    assert_eq!(link.start(start(&id)).await?.pid, 7);
    let exec = ExecRequest {
        exec_id: 5,
        container: id.clone(),
        process: process(),
        cgroup: CgroupJoin::default(),
        stdin: None,
        stdout: Some(null()),
        stderr: None,
        fds: vec![],
        size: None,
    };
    link.exec(exec).await?;
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

/// The requests that a peer got, after the greeting.
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

/// The first byte of the plan that a start or an exec brought.
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
        assert_eq!(plan_starts_with(&requests, op) & 0xf0, 0x80, "MessagePack: a map");
    }
}
