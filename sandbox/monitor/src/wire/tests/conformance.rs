//! Compares bytes of protocol 1, as its release wrote them, with the output of this build.

use crisp_executor::run::{Stage, StageError};

use super::sample::{EXIT, SIZE, cgroup, container, fd, note, plan, pod, process, report};
use crate::wire::request::{
    Attach, CloseStdin, ExecRequest, Forget, KillExec, OpenPod, OpenStdin, ReopenLog, Resize, Shutdown,
    Signal, StartRequest,
};
use crate::wire::response::{Event, Greeting, PodOpened, Started};
use crate::wire::{ExitStatus, Failure, Message, Request, Response, codec, v1};

const RECORDED: &str = include_str!("protocol1.txt");

fn recorded(name: &str) -> Vec<u8> {
    let line = RECORDED.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    let digits = line.unwrap_or_else(|| panic!("{name} is not recorded"));
    let byte = |at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap();
    (0..digits.len()).step_by(2).map(byte).collect()
}

/// The body is the recorded one, and can be read again with as many descriptors as were sent.
fn request<R: Request>(name: &str, request: R, descriptors: usize) {
    let Message { body, fds } = request.encode(1).unwrap();
    assert_eq!((body, fds.len()), (recorded(name), descriptors), "{name}");
}

fn read<R: Request + std::fmt::Debug + PartialEq>(name: &str, expected: R) {
    let message = Message { body: recorded(name), fds: vec![] };
    assert_eq!(R::decode(message, 1), Ok(expected), "{name}");
}

fn response<R: Response>(name: &str, response: R, descriptors: usize) {
    let Message { body, fds } = response.encode().unwrap();
    assert_eq!((body, fds.len()), (recorded(name), descriptors), "{name}");
}

#[test]
fn requests_for_a_monitor_of_protocol_1() {
    request("Signal", Signal { container: container(), signal: 37, all: true }, 0);
    request("Shutdown", Shutdown { force: true }, 0);
    request("KillExec", KillExec { exec: 300 }, 0);
    request("ReopenLog", ReopenLog { container: container(), log: fd() }, 1);
    request("Forget", Forget { container: container() }, 0);
    request("Resize", Resize { container: container(), size: SIZE }, 0);
    request("OpenStdin", OpenStdin { container: container() }, 0);
    request("CloseStdin", CloseStdin { container: container() }, 0);
    request("Attach", Attach { container: container(), stdout: Some(fd()), stderr: None }, 1);
    let pod = OpenPod {
        hostname: Some("web".into()),
        network: true,
        joined_network: None,
        ipc: false,
        shared_pid: true,
        sysctls: vec![("net/a".into(), "1".into())],
        shm_bytes: 1000,
        exits: fd(),
        cgroup_v2: Some(fd()),
        cgroup_v1_tasks: vec![fd(), fd()],
        user: None,
        host_ports: vec![],
    };
    let Message { body, fds } = pod.encode(1).unwrap();
    // The part of protocol 1, and the fields that were added after it.
    let known = recorded("OpenPod");
    assert_eq!((&body[..known.len()], &body[known.len()..], fds.len()), (&known[..], &[0, 0][..], 4));
}

#[test]
fn starts_and_execs_for_a_monitor_of_protocol_1() {
    let start = StartRequest {
        container: container(),
        plan: plan(),
        log: Some(fd()),
        fds: vec![fd()],
        stdin: false,
        stdin_once: true,
        size: Some(SIZE),
    };
    let Message { body, fds } = start.encode(1).unwrap();
    // The part of protocol 1, and the fields that were added after it.
    let known = recorded("Start");
    assert_eq!((&body[..known.len()], &body[known.len()..], fds.len()), (&known[..], &[1, 0][..], 3));
    let exec = ExecRequest {
        exec_id: 300,
        container: container(),
        process: process(),
        cgroup: cgroup(),
        stdin: None,
        stdout: Some(fd()),
        stderr: Some(fd()),
        fds: vec![fd()],
        size: None,
        grace_ms: 0,
        late_response: false,
    };
    let Message { body, fds } = exec.encode(1).unwrap();
    let known = recorded("Exec");
    assert_eq!((&body[..known.len()], &body[known.len()..], fds.len()), (&known[..], &[0, 0, 0][..], 4));
    let whole = plan();
    assert_eq!(codec::to_bytes(&v1::Plan::of(&whole).unwrap()).unwrap(), recorded("Plan"));
    let (process, cgroup) = (process(), cgroup());
    let exec = v1::ExecPlan::of(&process, &cgroup).unwrap();
    assert_eq!(codec::to_bytes(&exec).unwrap(), recorded("ExecPlan"));
}

#[test]
fn requests_of_a_server_of_protocol_1() {
    read("Signal", Signal { container: container(), signal: 37, all: true });
    read("Shutdown", Shutdown { force: true });
    read("KillExec", KillExec { exec: 300 });
    read("Forget", Forget { container: container() });
    read("Resize", Resize { container: container(), size: SIZE });
    read("OpenStdin", OpenStdin { container: container() });
    read("CloseStdin", CloseStdin { container: container() });
    let attach = Message { body: recorded("Attach"), fds: vec![fd()] };
    let attach = Attach::decode(attach, 1).unwrap();
    assert_eq!((attach.stdout.is_some(), attach.stderr.is_some()), (true, false));
    let reopen = Message { body: recorded("ReopenLog"), fds: vec![fd()] };
    assert_eq!(ReopenLog::decode(reopen, 1).unwrap().container, container());
}

#[test]
fn responses_of_every_protocol() {
    let greeting = Greeting { protocol: 1, build: "0.1.0".into(), pod: pod(), pid: 1234, opened: true };
    response("Greeting", greeting.clone(), 0);
    assert_eq!(Greeting::decode(Message { body: recorded("Greeting"), fds: vec![] }), Ok(greeting));
    response("PodReport", report(), 0);
    assert_eq!(
        crate::wire::response::PodReport::decode(Message { body: recorded("PodReport"), fds: vec![] }),
        Ok(report())
    );
    response("PodOpened", PodOpened { pid: 1234, init: Some(55), network: None }, 0);
    let started = Started {
        pid: 77,
        started_at_ns: 1_700_000_000_000_000_000,
        notes: vec![note()],
        terminal: Some(fd()),
        ended: None,
    };
    let Message { body, fds } = started.encode().unwrap();
    // The part of protocol 1, and the fields that were added after it.
    let known = recorded("Started");
    assert_eq!((&body[..known.len()], &body[known.len()..], fds.len()), (&known[..], &[0][..], 1));
}

#[test]
fn events_of_every_protocol() {
    let id = container;
    for (name, event) in [
        ("Exited", Event::Exited { container: id(), pid: 77, started_at_ns: 5, exit: EXIT }),
        (
            "ExecExited",
            Event::ExecExited { exec: 300, container: id(), status: ExitStatus::Code(7), finished_at_ns: 6 },
        ),
        ("InitExited", Event::InitExited { status: ExitStatus::Code(7) }),
        ("LogFailing", Event::LogFailing { container: id(), errno: 28 }),
        ("LogWorking", Event::LogWorking { container: id() }),
    ] {
        let bytes = recorded(&format!("Event::{name}"));
        assert_eq!(event.encode().unwrap(), bytes, "{name}");
        assert_eq!(Event::decode(&bytes), Ok(event));
    }
}

#[test]
fn failures_of_every_protocol() {
    let c = || "c".to_owned();
    for failure in [
        Failure::Version { monitor: 1, client: 2 },
        Failure::UnknownOperation { op: 99 },
        Failure::Malformed { reason: "r".into() },
        Failure::DescriptorsLost { sent: 3, got: 2 },
        Failure::NotOpen,
        Failure::AlreadyOpen,
        Failure::OpenFailed,
        Failure::UnknownContainer { container: c() },
        Failure::ContainerExists { container: c() },
        Failure::NotRunning { container: c() },
        Failure::StillRunning { container: c() },
        Failure::UnknownExec { exec: 300 },
        Failure::ExecExists { exec: 300 },
        Failure::ContainersRunning { count: 2 },
        Failure::NoTerminal { container: c() },
        Failure::NoStdin { container: c() },
        Failure::NoNetwork,
        Failure::Stage(StageError { stage: Stage::Exec, errno: 2, detail: "d".into() }),
        Failure::System { action: "a".into(), errno: 5 },
        Failure::Sysctl { name: "n".into(), reason: "r".into() },
        Failure::ShuttingDown,
    ] {
        let debug = format!("Failure::{failure:?}");
        let bytes = recorded(debug.split([' ', '(']).next().unwrap());
        assert_eq!(failure.encode().unwrap(), bytes, "{debug}");
        assert_eq!(Failure::decode(&bytes), Ok(failure));
    }
}

/// Stages are sent as numbers: a name may change, its number may not, new ones are added at the end.
#[test]
fn stages_keep_their_numbers() {
    let numbered = [
        Stage::PodRoot,
        Stage::Descriptors,
        Stage::JoinPidNamespace,
        Stage::Clone,
        Stage::JoinCgroup,
        Stage::JoinNamespaces,
        Stage::Proc,
        Stage::OomScore,
        Stage::AppArmor,
        Stage::AttachRoot,
        Stage::Mount,
        Stage::Device,
        Stage::Link,
        Stage::MaskPath,
        Stage::ReadonlyPath,
        Stage::Terminal,
        Stage::WorkingDirectory,
        Stage::SwitchRoot,
        Stage::Stdio,
        Stage::Limit,
        Stage::User,
        Stage::Capabilities,
        Stage::Seccomp,
        Stage::CloseDescriptors,
        Stage::Exec,
    ];
    for (number, stage) in numbered.into_iter().enumerate() {
        assert_eq!(codec::to_bytes(&stage).unwrap(), [u8::try_from(number).unwrap()], "{stage:?}");
    }
}
