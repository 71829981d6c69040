//! Properties that a container must not inherit from the runtime that starts it.

use std::os::fd::{AsFd, OwnedFd};

use crisp_executor::plan::{CgroupJoin, FdIndex};
use crisp_executor::run::{self, PodContext, Starting, Stdio};
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::thread::CpuSet;

use crate::lab::{Files, Pod, wait, watch};
use crate::plans::c;

pub const TESTS: &[crate::Test] = &[
    ("a_session_keyring_of_its_own", a_session_keyring_of_its_own),
    ("all_cpus_though_the_server_is_bound_to_one", all_cpus_though_the_server_is_bound_to_one),
    ("a_setup_child_keeps_nothing_of_the_monitor", a_setup_child_keeps_nothing_of_the_monitor),
];

fn a_session_keyring_of_its_own() {
    let pod = Files::busybox().pod();
    let unmasked = |plan: &mut crisp_executor::plan::Plan| plan.masked_paths.clear();
    let name = format!("_ses.{}", pod.id);
    let init = pod.started_with(&["/bin/sleep", "1000"], unmasked);
    let keys = pod.exec_with(&init, &["/bin/cat", "/proc/keys"], |_| {});
    let ours: Vec<&str> = keys.good().lines().filter(|line| line.contains(&name)).collect();
    // One for both: the exec has joined the container's by its name. 3f1b0000: see keyring.rs.
    assert_eq!(ours.len(), 1, "{keys:?}");
    assert!(ours[0].contains(" 3f1b0000 ") && ours[0].contains("keyring"), "{ours:?}");
    let users: u32 = ours[0].split_whitespace().nth(2).unwrap().parse().unwrap();
    assert!(users >= 3, "init and the exec's process refer to it: {ours:?}");
}

/// The kernel's lists, such as `0-1`.
fn allowed_cpus(pod: &Pod) -> String {
    pod.run(&["/bin/grep", "Cpus_allowed_list", "/proc/self/status"]).good().to_owned()
}

fn all_cpus_though_the_server_is_bound_to_one() {
    let pod = Files::busybox().pod();
    let before = allowed_cpus(&pod);
    let mut one = CpuSet::new();
    let all = rustix::thread::sched_getaffinity(None).unwrap();
    one.set((0..CpuSet::MAX_CPU).rev().find(|cpu| all.is_set(*cpu)).unwrap());
    rustix::thread::sched_setaffinity(None, &one).unwrap();
    assert_eq!(allowed_cpus(&pod), before);
    let init = pod.started(&["/bin/sleep", "1000"]);
    let exec = pod.exec_with(&init, &["/bin/grep", "Cpus_allowed_list", "/proc/self/status"], |_| {});
    assert_eq!(exec.good(), before);
}

/// A pipe that is full: who writes into it waits until it is read.
fn full_pipe() -> (OwnedFd, OwnedFd) {
    let (out, full) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    rustix::io::ioctl_fionbio(&full, true).unwrap();
    while rustix::io::write(&full, &[0; 4096]).is_ok() {}
    rustix::io::ioctl_fionbio(&full, false).unwrap();
    (out, full)
}

/// Stops where a process joins its cgroups, the first thing after it has given up what it needs not:
/// looks at it there, then lets it run to its end.
fn look_at_setup(proc: &OwnedFd, starting: &Starting, out: OwnedFd) -> (Vec<String>, String) {
    let folder = format!("{}", starting.pid);
    let read = |name: &str| {
        let file = openat(proc, format!("{folder}/{name}"), OFlags::RDONLY, Mode::empty()).unwrap();
        let mut text = String::new();
        std::io::Read::read_to_string(&mut std::fs::File::from(file), &mut text).unwrap();
        text
    };
    while !read("wchan").contains("pipe_write") && !read("syscall").starts_with("1 ") {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    let fds =
        openat(proc, format!("{folder}/fd"), OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
    let links = rustix::fs::Dir::read_from(&fds).unwrap().map(|entry| entry.unwrap().file_name().to_owned());
    let links = links.filter(|name| !name.to_bytes().starts_with(b"."));
    let mut links: Vec<String> = links
        .map(|name| rustix::fs::readlinkat(&fds, &name, Vec::new()).unwrap().into_string().unwrap())
        .collect();
    links.sort();
    let status = read("status");
    let mut rest = std::fs::File::from(out);
    std::thread::spawn(move || std::io::copy(&mut rest, &mut std::io::sink()));
    (links, status)
}

fn capabilities(status: &str, set: &str) -> u64 {
    let line = status.lines().find(|line| line.starts_with(set)).unwrap();
    u64::from_str_radix(line.split_whitespace().nth(1).unwrap(), 16).unwrap()
}

fn a_setup_child_keeps_nothing_of_the_monitor() {
    const MORE: u64 = 1 << 16 | 1 << 17 | 1 << 22 | 1 << 25; // SYS_MODULE, RAWIO, BOOT, TIME
    let proc = openat(CWD, "/proc", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
    let secret = std::fs::File::open("/etc/passwd").unwrap();
    let pod = Files::busybox().pod();
    let init = pod.started(&["/bin/sleep", "1000"]);
    let join = |fd: usize| CgroupJoin {
        v1_tasks: vec![FdIndex(u16::try_from(fd).unwrap())],
        ..CgroupJoin::default()
    };
    for exec in [false, true] {
        let (out, full) = full_pipe();
        let mut plan = pod.plan.clone();
        plan.process.args = vec![c("/bin/true")];
        let starting = if exec {
            run::exec(
                &pod.id,
                &plan.process,
                &join(0),
                &[full],
                Stdio::default(),
                init.0.pidfd.as_fd(),
                &PodContext::default(),
            )
        } else {
            let mut fds = pod.fds();
            fds.push(full);
            plan.cgroup = join(fds.len() - 1);
            run::start(&pod.id, &plan, &fds, Stdio::default(), &PodContext::default())
        };
        let starting = starting.unwrap();
        let (links, status) = look_at_setup(&proc, &starting, out);
        let standard = links.iter().filter(|link| *link == "/own/null").count();
        let sockets = links.iter().filter(|link| link.starts_with("socket:")).count();
        // The three streams, the report, the pipe, and the root or the pidfd of init.
        assert_eq!((links.len(), standard, sockets), (6, 3, 1), "exec: {exec}: {links:?}");
        let wanted = pod.plan.process.capabilities.bounding;
        assert_eq!(capabilities(&status, "CapBnd"), wanted, "exec: {exec}");
        assert_eq!(capabilities(&status, "CapEff") & MORE, 0, "exec: {exec}");
        assert_eq!(capabilities(&status, "CapPrm") & MORE, 0, "exec: {exec}");
        let watched = watch(&starting.report);
        assert!(watched.failed.is_none(), "{watched:?}");
        assert_eq!(wait(&starting), 0);
    }
    drop(secret);
}
