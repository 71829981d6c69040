//! Plans of containers as CRI clients usually ask for them.

use std::ffi::CString;

use crisp_executor::plan::{
    Capabilities, CgroupJoin, Device, FdIndex, Mount, MountKind, PidNamespace, Plan, Process, Root, Seccomp,
};

pub const NOSUID: u64 = 2;
pub const NODEV: u64 = 4;
pub const NOEXEC: u64 = 8;
pub const RDONLY: u64 = 1;
const USUAL: u64 = NOSUID | NODEV | NOEXEC;
/// The default capabilities of CRI runtimes.
pub const CAPABILITIES: u64 = 0xa804_25fb;

pub fn c(text: &str) -> CString {
    CString::new(text).unwrap()
}

pub fn mount(target: &str, kind: MountKind, attributes: u64) -> Mount {
    Mount { target: c(target), kind, attributes }
}

pub fn bind(target: &str, fd: usize, file: bool) -> Mount {
    mount(target, MountKind::Bind { source: FdIndex(u16::try_from(fd).unwrap()), file }, 0)
}

/// A container with what CRI runtimes give by default.
pub fn usual() -> Plan {
    Plan {
        process: process(),
        root: Root { mount: FdIndex(0), readonly: false, shared: false },
        mounts: mounts(),
        devices: devices(),
        masked_paths: [
            "/proc/asound",
            "/proc/acpi",
            "/proc/kcore",
            "/proc/keys",
            "/proc/latency_stats",
            "/proc/timer_list",
            "/proc/timer_stats",
            "/proc/sched_debug",
            "/proc/scsi",
            "/sys/firmware",
            "/sys/devices/virtual/powercap",
        ]
        .map(c)
        .to_vec(),
        readonly_paths: ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]
            .map(c)
            .to_vec(),
        pid: PidNamespace::Own,
        cgroup_namespace: true,
        hooks: None,
        cgroup: CgroupJoin::default(),
    }
}

fn process() -> Process {
    let capabilities = Capabilities {
        bounding: CAPABILITIES,
        effective: CAPABILITIES,
        permitted: CAPABILITIES,
        inheritable: 0,
        ambient: 0,
    };
    Process {
        args: Vec::new(),
        env: vec![c("PATH=/bin"), c("COLOUR=blue")],
        cwd: c("/"),
        uid: 0,
        gid: 0,
        groups: Vec::new(),
        umask: None,
        capabilities,
        no_new_privileges: false,
        rlimits: Vec::new(),
        seccomp: None,
        oom_score_adj: None,
        apparmor_profile: None,
        terminal: false,
    }
}

fn mounts() -> Vec<Mount> {
    let dev = ["mode=755", "size=65536k"].map(c).to_vec();
    vec![
        mount("/proc", MountKind::Proc, USUAL),
        mount("/dev", MountKind::Tmpfs { options: dev }, NOSUID),
        mount("/dev/pts", MountKind::Devpts { gid: 5 }, NOSUID | NOEXEC),
        mount("/dev/mqueue", MountKind::Mqueue, USUAL),
        mount("/dev/shm", MountKind::PodShm, USUAL),
        mount("/sys", MountKind::Sysfs, USUAL | RDONLY),
    ]
}

fn devices() -> Vec<Device> {
    let device = |path: &str, major, minor| Device {
        path: c(path),
        mode: libc::S_IFCHR | 0o666,
        major,
        minor,
        uid: 0,
        gid: 0,
    };
    vec![
        device("/dev/null", 1, 3),
        device("/dev/zero", 1, 5),
        device("/dev/full", 1, 7),
        device("/dev/random", 1, 8),
        device("/dev/urandom", 1, 9),
        device("/dev/tty", 5, 0),
    ]
}

/// mkdir(2) fails with an error of our choosing, everything else is allowed.
pub fn filter() -> Seccomp {
    refuse(libc::SYS_mkdir)
}

/// A filter that answers one system call with ENAMETOOLONG.
pub fn refuse(call: libc::c_long) -> Seccomp {
    let instruction = |code: u16, jt: u8, jf: u8, k: u32| {
        let mut bytes = code.to_ne_bytes().to_vec();
        bytes.extend([jt, jf]);
        bytes.extend(k.to_ne_bytes());
        bytes
    };
    let call = u32::try_from(call).unwrap();
    let program = [
        instruction(0x20, 0, 0, 0),
        instruction(0x15, 0, 1, call),
        instruction(0x06, 0, 0, 0x0005_0000 | 36),
        instruction(0x06, 0, 0, 0x7fff_0000),
    ];
    Seccomp { program: program.concat(), flags: 0 }
}
