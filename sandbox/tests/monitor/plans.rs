//! Plans as small as they get.

use std::ffi::CString;

use crisp_executor::ids::ContainerId;
use crisp_executor::plan::{
    Capabilities, CgroupJoin, Device, FdIndex, Mount, MountKind, PidNamespace, Plan, Process, Root,
};
use crisp_sandbox::link::ExecRequest;

const ALL_CAPABILITIES: u64 = (1 << 41) - 1;

fn c(text: &str) -> CString {
    CString::new(text).unwrap()
}

/// An exec without streams, in the container's own cgroup.
pub fn exec_request(exec_id: u64, container: &ContainerId, process: Process) -> ExecRequest {
    ExecRequest {
        exec_id,
        container: container.clone(),
        process,
        cgroup: CgroupJoin::default(),
        fds: vec![],
        stdin: None,
        stdout: None,
        stderr: None,
        size: None,
        grace_ms: 0,
        late_response: false,
    }
}

pub fn process(args: &[&str]) -> Process {
    let capabilities = Capabilities {
        bounding: ALL_CAPABILITIES,
        effective: ALL_CAPABILITIES,
        permitted: ALL_CAPABILITIES,
        inheritable: 0,
        ambient: 0,
    };
    Process {
        args: args.iter().map(|arg| c(arg)).collect(),
        env: vec![c("PATH=/bin")],
        cwd: c("/"),
        uid: 0,
        gid: 0,
        groups: vec![],
        umask: None,
        capabilities,
        no_new_privileges: true,
        rlimits: vec![],
        seccomp: None,
        oom_score_adj: None,
        apparmor_profile: None,
        terminal: false,
    }
}

/// A container with the image's root as descriptor 0 and little else.
pub fn plan(args: &[&str]) -> Plan {
    // Without it a shell cannot put anything into the background.
    let null = Device { path: c("/dev/null"), mode: 0o020_666, major: 1, minor: 3, uid: 0, gid: 0 };
    let mount = |target: &str, kind| Mount { target: c(target), kind, attributes: 0 };
    Plan {
        process: process(args),
        root: Root { mount: FdIndex(0), readonly: false, shared: false },
        mounts: vec![
            mount("/proc", MountKind::Proc),
            mount("/dev", MountKind::Tmpfs { options: vec![c("size=64k")] }),
            mount("/dev/pts", MountKind::Devpts { gid: 5 }),
            mount("/dev/shm", MountKind::PodShm),
        ],
        devices: vec![null],
        masked_paths: vec![],
        readonly_paths: vec![],
        pid: PidNamespace::Own,
        cgroup_namespace: false,
        hooks: None,
        cgroup: CgroupJoin::default(),
    }
}

/// A script in busybox's shell, all its commands built in.
pub fn sh(script: &str) -> Plan {
    plan(&["/bin/sh", "-c", script])
}
