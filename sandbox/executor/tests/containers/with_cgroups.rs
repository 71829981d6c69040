//! Processes are in their cgroups before they run anything.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use crisp_executor::plan::{CgroupJoin, FdIndex};
use crisp_executor::run::{self, Stdio};
use rustix::fs::{AtFlags, Mode, OFlags, mkdirat, open, openat, readlinkat, unlinkat};
use rustix::process::{Signal, pidfd_send_signal};

use crate::lab::{Files, Pod, wait};
use crate::plans::c;

pub const TESTS: &[crate::Test] = &[
    ("cgroups_are_joined", cgroups_are_joined),
    ("a_removed_cgroup_is_an_error", a_removed_cgroup_is_an_error),
    ("a_process_that_joins_holds_no_folder_of_cgroups", a_process_that_joins_holds_no_folder_of_cgroups),
];

/// A cgroup of our own that goes when this does, though its path is out of reach by then.
struct Cgroup {
    parent: OwnedFd,
    name: String,
    folder: OwnedFd,
}

impl Cgroup {
    fn make(hierarchy: &Path) -> Self {
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
        let parent = open(hierarchy, flags, Mode::empty()).unwrap();
        let name = format!("crisp-executor-test-{}", std::process::id());
        mkdirat(&parent, &*name, Mode::from_raw_mode(0o755)).unwrap();
        let folder = openat(&parent, &*name, flags, Mode::empty()).unwrap();
        Self { parent, name, folder }
    }

    fn folder(&self) -> OwnedFd {
        self.folder.try_clone().unwrap()
    }

    fn tasks(&self) -> OwnedFd {
        openat(&self.folder, "tasks", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty()).unwrap()
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = unlinkat(&self.parent, &*self.name, AtFlags::REMOVEDIR);
    }
}

/// Where v2 is mounted, and a v1 hierarchy if there is one.
fn hierarchies() -> (Option<PathBuf>, Option<PathBuf>) {
    let base = Path::new("/sys/fs/cgroup");
    let v2 = [base.to_owned(), base.join("unified")].into_iter().find(|p| p.join("cgroup.procs").is_file());
    let v1 = Some(base.join("pids")).filter(|p| p.join("tasks").is_file());
    (v2, v1)
}

fn cgroups_are_joined() {
    let (v2, v1) = hierarchies();
    let (v2, v1) = (v2.map(|p| Cgroup::make(&p)), v1.map(|p| Cgroup::make(&p)));
    if v2.is_none() && v1.is_none() {
        crisp_skip::unsupported!(CgroupV2);
    }
    let files = Files::busybox();
    let mut join = CgroupJoin::default();
    let mut fds: Vec<Box<dyn Fn() -> OwnedFd>> = Vec::new();
    fds.push(Box::new(move || files.detached()));
    if let Some(cgroup) = v2.as_ref().map(Cgroup::folder) {
        join.v2 = Some(FdIndex(u16::try_from(fds.len()).unwrap()));
        fds.push(Box::new(move || cgroup.try_clone().unwrap()));
    }
    if let Some(tasks) = v1.as_ref().map(Cgroup::tasks) {
        join.v1_tasks = vec![FdIndex(u16::try_from(fds.len()).unwrap())];
        fds.push(Box::new(move || tasks.try_clone().unwrap()));
    }
    let wanted: Vec<&str> =
        [v2.as_ref().map(|_| "0::"), v1.as_ref().map(|_| ":pids:")].into_iter().flatten().collect();
    let pod = Pod::enter(|| fds.iter().map(|make| make()).collect());
    check(&pod, &join, &wanted);
}

fn check(pod: &Pod, join: &CgroupJoin, wanted: &[&str]) {
    let name = format!("crisp-executor-test-{}", std::process::id());
    let inside = pod.run_with(&["/bin/cat", "/proc/self/cgroup"], |plan| plan.cgroup = join.clone());
    let outside = pod.run_with(&["/bin/cat", "/proc/self/cgroup"], |plan| {
        plan.cgroup = join.clone();
        plan.cgroup_namespace = false;
    });
    for hierarchy in wanted {
        let line = |text: &str| text.lines().find(|l| l.contains(hierarchy)).map(str::to_owned).unwrap();
        assert!(line(inside.good()).ends_with(&format!("{hierarchy}/")), "its own is the root: {inside:?}");
        assert!(line(outside.good()).ends_with(&name), "{outside:?}");
    }
    let init = pod.started_with(&["/bin/sleep", "1000"], |plan| plan.cgroup = join.clone());
    let fds = pod.fds();
    let exec = pod.exec_in(&init, &["/bin/cat", "/proc/self/cgroup"], |_| {}, join, &fds);
    for hierarchy in wanted {
        assert!(exec.good().lines().any(|l| l.ends_with(&format!("{hierarchy}/"))), "{exec:?}");
    }
    pidfd_send_signal(&init.0.pidfd, Signal::KILL).unwrap();
    assert_eq!(wait(&init.0), 137);
}

fn a_removed_cgroup_is_an_error() {
    let (Some(v2), _) = hierarchies() else {
        crisp_skip::unsupported!(CgroupV2);
    };
    let files = Files::busybox();
    let cgroup = Cgroup::make(&v2);
    let folder = File::from(cgroup.folder());
    drop(cgroup);
    let pod = Pod::enter(|| vec![files.detached(), folder.try_clone().unwrap().into()]);
    let outcome = pod.run_with(&["/bin/true"], |plan| plan.cgroup.v2 = Some(FdIndex(1)));
    assert_eq!(outcome.error(), "clone process: its cgroup has been removed");
}

/// Processes of the container that can inspect others follow its descriptors: from a folder up to the host's root.
fn a_process_that_joins_holds_no_folder_of_cgroups() {
    let (Some(v2), _) = hierarchies() else {
        crisp_skip::unsupported!(CgroupV2);
    };
    let cgroup = Cgroup::make(&v2);
    let pod = Files::busybox().pod();
    let init = pod.started(&["/bin/sleep", "1000"]);
    let join = CgroupJoin { v2: Some(FdIndex(0)), ..CgroupJoin::default() };
    let mut process = pod.plan.process.clone();
    process.args = vec![c("/bin/true")];
    let mut seen = 0;
    for round in 0..2000u32 {
        let fds = [cgroup.folder()];
        let (of, context) = (init.0.pidfd.as_fd(), pod.context());
        let starting = run::exec(&pod.id, &process, &join, &fds, Stdio::default(), of, &context).unwrap();
        // Somewhere between its clone and its end.
        for _ in 0..(round % 100) * 200 {
            std::hint::spin_loop();
        }
        pidfd_send_signal(&starting.pidfd, Signal::STOP).unwrap();
        if stands_in_its_own_session(&pod, starting.pid) {
            seen += 1;
            let held = descriptors(&pod, starting.pid);
            assert!(!held.iter().any(|link| link.ends_with(&cgroup.name)), "{held:?}");
        }
        pidfd_send_signal(&starting.pidfd, Signal::KILL).unwrap();
        wait(&starting);
        if seen == 20 {
            break;
        }
    }
    assert!(seen > 0, "it was never seen before its exec");
    pidfd_send_signal(&init.0.pidfd, Signal::KILL).unwrap();
    wait(&init.0);
}

/// Whether it is stopped between setsid, which comes after it has closed what it does not need, and its exec.
fn stands_in_its_own_session(pod: &Pod, pid: i32) -> bool {
    for _ in 0..10_000 {
        let stat = read(pod, &format!("{pid}/stat"));
        let Some((name, rest)) = stat.rsplit_once(')') else { return false };
        let fields: Vec<&str> = rest.split_whitespace().collect();
        match fields[0] {
            "T" => return !name.ends_with("(true") && fields[3] == pid.to_string(),
            "Z" => return false,
            _ => {}
        }
    }
    false
}

fn read(pod: &Pod, path: &str) -> String {
    let mut text = String::new();
    let file = openat(pod.context().proc.unwrap(), path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
    let _ = file.map(|file| File::from(file).read_to_string(&mut text));
    text
}

fn descriptors(pod: &Pod, pid: i32) -> Vec<String> {
    let link =
        |number: u32| readlinkat(pod.context().proc.unwrap(), format!("{pid}/fd/{number}"), Vec::new()).ok();
    (0..256).filter_map(link).map(|link| link.to_string_lossy().into_owned()).collect()
}
