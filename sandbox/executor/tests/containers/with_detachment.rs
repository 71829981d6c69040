//! Containers without a monitor: namespaces of their own, pauses before the root and the exec.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crisp_executor::ids::ContainerId;
use crisp_executor::plan::{CgroupJoin, FdIndex, HookPause, Hooks, PidNamespace};
use crisp_executor::run::detached::{self, Namespace, Namespaces};
use crisp_executor::run::procfs::makes_those_of_others;
use crisp_executor::run::{Progress, Stage, Starting, Stdio, start_gate};
use crisp_executor::source;
use rustix::io::Errno;

use crate::lab::{Files, wait, watch};
use crate::plans::{self, c};

pub const TESTS: &[crate::Test] = &[
    ("a_detached_start_pauses_before_its_root_and_its_exec", pauses),
    ("a_failed_exec_is_told_to_who_opens_the_gate", failed_exec),
    ("a_program_that_is_not_there_never_waits", missing),
    ("the_callers_root_and_namespaces_stay_its_own", caller_stays),
    ("a_killed_process_leaves_a_closed_gate", killed),
    ("a_detached_start_in_a_pid_namespace_of_others", among_others),
];

const GATE: &str = "gate";
const SECOND_GATE: &str = "gate-2";

struct Lab {
    files: Files,
    folder: File,
    bundle: PathBuf,
    id: ContainerId,
}

impl Lab {
    fn new() -> Self {
        // The helper's children are ours after it.
        rustix::process::set_child_subreaper(Some(rustix::process::getpid())).unwrap();
        let files = Files::busybox();
        let folder = File::open(files.volume("state")).unwrap();
        let bundle = files.volume("bundle");
        Self { files, folder, bundle, id: ContainerId::random() }
    }

    fn create(&self, args: &[&str], before_root: bool) -> Starting {
        self.create_among(None, args, before_root)
    }

    /// In the PID namespace of another container's first process.
    fn create_among(&self, other: Option<&Starting>, args: &[&str], before_root: bool) -> Starting {
        let name = if other.is_some() { SECOND_GATE } else { GATE };
        let gate = start_gate::listen(self.folder.as_fd(), name).unwrap();
        let mut plan = plans::usual();
        let mut fds = vec![self.files.detached()];
        if let Some(other) = other {
            plan.pid = PidNamespace::Target(FdIndex(1));
            let namespace = File::open(format!("/proc/{}/ns/pid", other.pid)).unwrap();
            fds.push(namespace.into());
        }
        plan.process.args = args.iter().map(|arg| c(arg)).collect();
        let namespaces = Namespaces {
            network: Namespace::New,
            ipc: Namespace::New,
            uts: Namespace::New,
            hostname: Some("gated".to_owned()),
            sysctls: vec![("kernel.shmmni".to_owned(), "17".to_owned())],
            ..Namespaces::default()
        };
        if before_root {
            let whole = source::Options { recursive: true, ..source::Options::default() };
            let host = source::open(Path::new("/"), whole, Duration::from_secs(10)).unwrap();
            let pause = HookPause {
                socket: None,
                host: FdIndex(u16::try_from(fds.len()).unwrap()),
                root: c(self.bundle.to_str().unwrap()),
            };
            fds.push(host.mount);
            plan.hooks = Some(Hooks { pause: Some(pause), ..Hooks::default() });
            source::end_thread();
        }
        detached::create(&self.id, &plan, &fds, Stdio::default(), &namespaces, Some(gate.as_fd())).unwrap()
    }
}

fn pauses() {
    let lab = Lab::new();
    let script =
        "[ $(cat /proc/sys/kernel/hostname) = gated ] && [ $(cat /proc/sys/kernel/shmmni) = 17 ] && exit 5";
    let starting = lab.create(&["/bin/sh", "-c", script], true);
    assert!(matches!(starting.report.wait(), Ok(Progress::Prepared)));
    // The host's files, and the container's root among them.
    let seen = format!("/proc/{}/root{}", starting.pid, lab.bundle.display());
    assert!(std::fs::exists(format!("{seen}/bin/busybox")).unwrap());
    assert!(std::fs::read_dir(&lab.bundle).unwrap().next().is_none());
    starting.report.proceed().unwrap();
    assert!(matches!(starting.report.wait(), Ok(Progress::Waiting)));
    let report = start_gate::open(lab.folder.as_fd(), GATE).unwrap();
    assert!(matches!(report.wait(), Ok(Progress::Executed)));
    assert_eq!(start_gate::open(lab.folder.as_fd(), GATE).unwrap_err(), Errno::CONNREFUSED);
    assert_eq!(wait(&starting), 5);
}

fn among_others() {
    let lab = Lab::new();
    let first = lab.create(&["/bin/sleep", "1000"], false);
    watch(&first.report);
    watch(&start_gate::open(lab.folder.as_fd(), GATE).unwrap());
    for pause in [true, false] {
        let script = "[ $$ -gt 1 ] && [ $(cat /proc/1/comm) = sleep ] && exit 5";
        let starting = lab.create_among(Some(&first), &["/bin/sh", "-c", script], pause);
        let helper = starting.pid;
        if !makes_those_of_others() {
            let failed = watch(&starting.report).failed.unwrap();
            assert!(failed.detail.contains("is given without a process of it"), "{failed}");
            return kill(&first);
        }
        if pause {
            let progress = starting.report.wait();
            assert!(matches!(progress, Ok(Progress::Prepared)), "{progress:?}");
            starting.report.proceed().unwrap();
        }
        assert!(matches!(starting.report.wait(), Ok(Progress::Waiting)));
        let starting = starting.wait_for_process().unwrap();
        assert_ne!(starting.pid, helper);
        let report = start_gate::open(lab.folder.as_fd(), SECOND_GATE).unwrap();
        assert!(matches!(report.wait(), Ok(Progress::Executed)));
        assert_eq!(wait(&starting), 5);
        std::fs::remove_file(format!("/proc/self/fd/{}/{SECOND_GATE}", lab.folder.as_raw_fd())).unwrap();
    }
    let missing = lab.create_among(Some(&first), &["no-such-program"], false);
    let failed = watch(&missing.report).failed.unwrap();
    assert!(failed.detail.contains("executable file not found in $PATH"), "{failed}");
    // The first process of a namespace does not end before this.
    assert_eq!(wait(&missing.wait_for_process().unwrap()), 127);
    kill(&first);
}

fn failed_exec() {
    let lab = Lab::new();
    lab.files.write("bin/broken", "no program").mode("bin/broken", 0o755);
    let starting = lab.create(&["/bin/broken"], false);
    assert!(matches!(starting.report.wait(), Ok(Progress::Waiting)));
    let failed = watch(&start_gate::open(lab.folder.as_fd(), GATE).unwrap()).failed.unwrap();
    assert_eq!(failed.stage, Stage::Exec);
    assert!(failed.detail.contains("/bin/broken"), "{failed}");
    assert_eq!(wait(&starting), 127);
}

fn missing() {
    let lab = Lab::new();
    let starting = lab.create(&["no-such-program"], false);
    let failed = watch(&starting.report).failed.unwrap();
    assert!(failed.detail.contains("executable file not found in $PATH"), "{failed}");
    assert_eq!(wait(&starting), 127);
}

fn caller_stays() {
    let lab = Lab::new();
    let own = || {
        ["net", "ipc", "uts", "mnt"].map(|name| std::fs::read_link(format!("/proc/self/ns/{name}")).unwrap())
    };
    let before = own();
    let init = lab.create(&["/bin/sleep", "1000"], false);
    watch(&init.report);
    watch(&start_gate::open(lab.folder.as_fd(), GATE).unwrap());
    let mut process = plans::usual().process;
    process.args =
        ["/bin/sh", "-c", "[ $(cat /proc/sys/kernel/hostname) = gated ] && exit 6"].map(c).to_vec();
    let join = CgroupJoin::default();
    let stdio = Stdio::default();
    let exec = detached::exec(&lab.id, &process, &join, &[], stdio, init.pidfd.as_fd(), None).unwrap();
    assert!(watch(&exec.report).failed.is_none());
    assert_eq!(wait(&exec), 6);
    assert_eq!(own(), before);
    assert!(Path::new("/proc/self/exe").exists());
    kill(&init);
}

fn killed() {
    let lab = Lab::new();
    let starting = lab.create(&["/bin/true"], false);
    watch(&starting.report);
    kill(&starting);
    assert_eq!(start_gate::open(lab.folder.as_fd(), GATE).unwrap_err(), Errno::CONNREFUSED);
}

fn kill(starting: &Starting) {
    rustix::process::pidfd_send_signal(&starting.pidfd, rustix::process::Signal::KILL).unwrap();
    assert_eq!(wait(starting), 137);
}
