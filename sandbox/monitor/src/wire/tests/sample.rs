//! One value of each kind, with every field set.

use std::ffi::CString;

use crisp_executor::ids::{ContainerId, PodId};
use crisp_executor::plan::{
    Capabilities, CgroupJoin, Device, FdIndex, HookPause, Hooks, Mount, MountKind, PidNamespace, Plan,
    Process, Rlimit, Root, Seccomp, StartHook,
};
use crisp_executor::run::{Stage, StageError};
use rustix::fd::OwnedFd;

use crate::wire::request::WindowSize;
use crate::wire::response::{ContainerReport, ContainerState, LogReport, PodReport};
use crate::wire::{Exit, ExitStatus};

pub(super) const EXIT: Exit =
    Exit { status: ExitStatus::Signal(9), oom: true, finished_at_ns: 1_700_000_000_000_000_001 };
pub(super) const SIZE: WindowSize = WindowSize { columns: 200, rows: 50 };

pub(super) fn container() -> ContainerId {
    ContainerId::parse(&"ab".repeat(32)).unwrap()
}

pub(super) fn pod() -> PodId {
    PodId::parse(&"cd".repeat(32)).unwrap()
}

pub(super) fn fd() -> OwnedFd {
    std::fs::File::open("/dev/null").unwrap().into()
}

pub(super) fn note() -> StageError {
    StageError { stage: Stage::Limit, errno: 1, detail: "x".into() }
}

pub(super) fn report() -> PodReport {
    let log = LogReport { written: 1000, discarded: 1, failures: 2, failing: 28 };
    let report = |state| ContainerReport {
        id: container(),
        pid: 77,
        state,
        started_at_ns: 1_700_000_000_000_000_000,
        terminal: true,
        execs: 3,
        log,
    };
    let states = [ContainerState::Starting, ContainerState::Running, ContainerState::Exited(EXIT)];
    PodReport { opened: true, init: Some(55), containers: states.map(report).to_vec() }
}

fn c(text: &str) -> CString {
    CString::new(text).unwrap()
}

pub(super) fn process() -> Process {
    Process {
        args: vec![c("a"), c("bb")],
        env: vec![c("A=1")],
        cwd: c("/w"),
        uid: 1000,
        gid: 1001,
        groups: vec![5, 600],
        umask: Some(18),
        capabilities: Capabilities { bounding: 1, effective: 2, permitted: 3, inheritable: 4, ambient: 500 },
        no_new_privileges: true,
        rlimits: vec![Rlimit { resource: 7, soft: 1024, hard: 4096 }],
        seccomp: Some(Seccomp { program: vec![6, 0, 0, 0, 0, 0, 255, 127], flags: 4 }),
        oom_score_adj: Some(-998),
        apparmor_profile: Some(c("p")),
        terminal: true,
    }
}

pub(super) fn cgroup() -> CgroupJoin {
    CgroupJoin {
        v2: Some(FdIndex(300)),
        v1_tasks: vec![FdIndex(4), FdIndex(5)],
        oom_events: Some(FdIndex(6)),
    }
}

pub(super) fn plan() -> Plan {
    let mount = |target: &str, kind| Mount { target: c(target), kind, attributes: 15 };
    Plan {
        process: process(),
        root: Root { mount: FdIndex(0), readonly: true, shared: false },
        mounts: vec![
            mount("/b", MountKind::Bind { source: FdIndex(1), file: true }),
            mount("/p", MountKind::Proc),
            mount("/s", MountKind::Sysfs),
            mount("/t", MountKind::Tmpfs { options: vec![c("size=1k")] }),
            mount("/d", MountKind::Devpts { gid: 5 }),
            mount("/q", MountKind::Mqueue),
            mount("/h", MountKind::PodShm),
            mount("/c", MountKind::Cgroup2),
            mount("/1", MountKind::Cgroup1 { hierarchies: vec![c("cpu,cpuacct")], unified: true }),
        ],
        devices: vec![Device { path: c("/dev/n"), mode: 0o020_666, major: 1, minor: 3, uid: 0, gid: 5 }],
        masked_paths: vec![c("/m")],
        readonly_paths: vec![c("/r")],
        pid: PidNamespace::Target(FdIndex(2)),
        cgroup_namespace: true,
        cgroup: cgroup(),
        hooks: None,
    }
}

/// Not known to protocols below 4.
pub(super) fn with_hooks() -> Plan {
    let hook = StartHook { path: c("/h"), args: vec![c("h")], env: vec![c("A=1")], timeout_ms: 60_000 };
    let pause = HookPause { socket: Some(FdIndex(7)), host: FdIndex(8), root: c("/b/rootfs") };
    let hooks = Hooks { pause: Some(pause), start_container: vec![hook], state: b"{".to_vec() };
    Plan { hooks: Some(hooks), ..plan() }
}
