//! Types that grow between releases, and input that no release wrote.

use std::ffi::CString;

use crisp_executor::plan::{CgroupJoin, Plan, Process};
use rustix::fd::OwnedFd;
use serde::{Deserialize, Serialize};

use super::sample::{cgroup, container, fd, plan, process, with_hooks};
use crate::wire::request::{ExecRequest, HoldPorts, OpenPod, StartRequest};
use crate::wire::response::PortSockets;
use crate::wire::{
    Failure, Header, MAX_BODY, Message, Op, PROTOCOL, Request, Response as _, fuzz_packet, plan as codec,
};

#[test]
fn a_start_arrives_as_it_was_sent() {
    let request = StartRequest {
        container: container(),
        plan: plan(),
        log: None,
        fds: vec![fd(), fd()],
        stdin: true,
        stdin_once: true,
        size: None,
    };
    let read = StartRequest::decode(request.encode(PROTOCOL).unwrap(), PROTOCOL).unwrap();
    assert_eq!((read.container, read.plan, read.fds.len()), (container(), plan(), 2));
    assert!(read.log.is_none() && read.stdin && read.size.is_none());
}

fn exec(process: Process) -> ExecRequest {
    ExecRequest {
        exec_id: 5,
        container: container(),
        process,
        cgroup: cgroup(),
        stdin: Some(fd()),
        stdout: None,
        stderr: Some(fd()),
        fds: vec![fd()],
        size: None,
        grace_ms: 7,
        late_response: true,
    }
}

#[test]
fn an_exec_arrives_as_it_was_sent_in_the_body_or_beside_it() {
    let long = || Process { args: vec![CString::new("x".repeat(1 << 20)).unwrap()], ..process() };
    for (protocol, process, descriptors) in
        [(PROTOCOL, process(), 3), (2, process(), 4), (PROTOCOL, long(), 4), (2, long(), 4)]
    {
        let message = exec(process.clone()).encode(protocol).unwrap();
        assert_eq!(message.fds.len(), descriptors);
        assert!(message.body.len() < MAX_BODY);
        let read = ExecRequest::decode(message, protocol).unwrap();
        assert_eq!((read.exec_id, read.process, read.cgroup, read.fds.len()), (5, process, cgroup(), 1));
        assert!(read.stdin.is_some() && read.stdout.is_none() && read.stderr.is_some());
        assert_eq!((read.grace_ms, read.late_response), (7, true));
    }
}

#[test]
fn an_exec_of_an_older_server_is_responded_to_at_its_start() {
    let Message { body, fds } = exec(process()).encode(2).unwrap();
    // In the form of protocol 2: without the late response and the plan.
    let body = body[..body.len() - 2].to_vec();
    let read = ExecRequest::decode(Message { body, fds }, 2).unwrap();
    assert_eq!((read.process, read.grace_ms, read.late_response), (process(), 7, false));
}

fn open(host_ports: Vec<OwnedFd>) -> OpenPod {
    OpenPod {
        hostname: None,
        network: true,
        joined_network: None,
        ipc: true,
        shared_pid: false,
        sysctls: vec![],
        shm_bytes: 1,
        exits: fd(),
        cgroup_v2: Some(fd()),
        cgroup_v1_tasks: vec![fd()],
        user: None,
        host_ports,
    }
}

#[test]
fn sockets_of_host_ports_come_after_the_other_descriptors() {
    for count in [0, 200] {
        let message = open((0..count).map(|_| fd()).collect()).encode(PROTOCOL).unwrap();
        assert_eq!(message.fds.len(), 3 + count);
        let read = OpenPod::decode(message, PROTOCOL).unwrap();
        assert_eq!((read.host_ports.len(), read.cgroup_v1_tasks.len()), (count, 1));
    }
    let read = HoldPorts::decode(HoldPorts { sockets: vec![fd(), fd()] }.encode(1).unwrap(), 1).unwrap();
    assert_eq!(read.sockets.len(), 2);
    let response = PortSockets { sockets: vec![fd()], all: 9 };
    let read = PortSockets::decode(response.encode().unwrap()).unwrap();
    assert_eq!((read.sockets.len(), read.all), (1, 9));
}

/// A process of a later release.
#[derive(Serialize)]
struct LaterProcess {
    scheduler: Option<(String, i64)>,
    #[serde(flatten)]
    process: Process,
    /// Fields that an older monitor must ignore.
    novelties: Vec<[u64; 3]>,
}

#[derive(Serialize)]
struct LaterExec {
    process: LaterProcess,
    cgroup: CgroupJoin,
}

#[test]
fn a_plan_with_fields_of_a_later_release_is_read_without_them() {
    let later = LaterProcess {
        scheduler: Some(("idle".into(), 19)),
        process: process(),
        novelties: vec![[1, 2, u64::MAX]; 3],
    };
    let bytes = codec::to_bytes(&LaterExec { process: later, cgroup: cgroup() }).unwrap();
    let codec::Exec { process: read, cgroup: join } = codec::from_bytes(&bytes).unwrap();
    assert_eq!((read, join), (process(), cgroup()));
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Grown {
    name: String,
    #[serde(default)]
    since: Option<u32>,
    #[serde(default)]
    list: Vec<String>,
}

#[test]
fn fields_that_an_earlier_release_did_not_write_have_their_default() {
    let bytes = codec::to_bytes(&std::collections::BTreeMap::from([("name", "x")])).unwrap();
    let read: Grown = codec::from_bytes(&bytes).unwrap();
    assert_eq!(read, Grown { name: "x".into(), since: None, list: vec![] });
}

#[test]
fn a_kind_of_mount_that_only_a_later_release_knows_is_refused_by_name() {
    let mut bytes = codec::to_bytes(&plan()).unwrap();
    let at = bytes.windows(6).position(|window| window == b"Mqueue").unwrap();
    bytes[at..at + 6].copy_from_slice(b"Zmount");
    let error = codec::from_bytes::<Plan>(&bytes).unwrap_err();
    assert!(error.reason.contains("Zmount"), "{error}");
}

#[test]
fn a_plan_of_protocol_1_is_refused_and_not_misread() {
    let request = StartRequest {
        container: container(),
        plan: plan(),
        log: None,
        fds: vec![],
        stdin: false,
        stdin_once: true,
        size: None,
    };
    let read = StartRequest::decode(request.encode(1).unwrap(), 1).unwrap_err();
    assert_eq!(read, Failure::Version { monitor: PROTOCOL, client: 1 });
}

/// Every cut, and every byte changed, of a message of each kind: an error or another message, never
/// a panic, and never memory by the number that a length claims.
#[test]
fn broken_messages_are_errors() {
    for line in include_str!("protocol1.txt").lines().filter(|line| !line.starts_with('#')) {
        let digits = line.rsplit(' ').next().unwrap();
        let byte = |at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap();
        let body: Vec<u8> = (0..digits.len()).step_by(2).map(byte).collect();
        for op in Op::ALL {
            let whole = [&Header::request(op, 1).to_bytes()[..], &body].concat();
            for cut in 0..whole.len() {
                fuzz_packet(&whole[..cut]);
            }
            for at in Header::LEN..whole.len() {
                for value in [0, 0x7f, 0x80, 0xff] {
                    let mut changed = whole.clone();
                    changed[at] = value;
                    fuzz_packet(&changed);
                }
            }
        }
    }
    let bytes = codec::to_bytes(&plan()).unwrap();
    for at in 0..bytes.len() {
        fuzz_packet(&bytes[..at]);
        for value in [0x80, 0x8f, 0xc6, 0xdd, 0xdf, 0xff] {
            let mut changed = bytes.clone();
            changed[at] = value;
            fuzz_packet(&changed);
        }
    }
}

#[test]
fn descriptors_that_did_not_come_are_named() {
    let request = StartRequest {
        container: container(),
        plan: plan(),
        log: Some(fd()),
        fds: vec![],
        stdin: false,
        stdin_once: true,
        size: None,
    };
    let Message { body, mut fds } = request.encode(PROTOCOL).unwrap();
    fds.pop();
    let error = StartRequest::decode(Message { body, fds }, PROTOCOL).unwrap_err();
    assert!(error.to_string().contains("the log file"), "{error}");
}

/// A monitor that ignores hooks would start the container without them.
#[test]
fn hooks_are_refused_for_older_monitors() {
    let error = |protocol| codec::encode(&with_hooks(), protocol).unwrap_err().to_string();
    for protocol in 1..4 {
        assert!(error(protocol).contains("does not support hooks"), "{}", error(protocol));
    }
    let encoded = codec::encode(&with_hooks(), PROTOCOL).unwrap();
    assert_eq!(codec::decode(&encoded, PROTOCOL).unwrap(), with_hooks());
}
