//! Images, volumes and containers that are out to get something from the host.

use std::os::fd::AsFd as _;
use std::os::unix::fs::FileExt as _;
use std::process::{Child, Command};

use rustix::fs::{CWD, RenameFlags, renameat_with};

use crisp_executor::plan::{FdIndex, MountKind, PidNamespace, Process};
use crisp_executor::run::procfs::makes_those_of_others;
use crisp_executor::run::{self, PodContext, Stdio};

use crate::lab::{Files, Pod, Running, detached, wait, watch};
use crate::plans::{bind, c};

pub const TESTS: &[crate::Test] = &[
    ("a_racing_neighbour", a_racing_neighbour),
    ("a_terminal_that_is_none", a_terminal_that_is_none),
    ("a_hidden_proc_changes_nothing", a_hidden_proc_changes_nothing),
    ("nothing_stays_behind", nothing_stays_behind),
    ("the_monitor_can_not_be_looked_into", the_monitor_can_not_be_looked_into),
    ("a_root_is_attached_once", a_root_is_attached_once),
    ("a_command_is_seen_with_nothing_of_the_monitor", a_command_is_seen_with_nothing_of_the_monitor),
    ("commands_among_tracers_are_as_any", commands_among_tracers_are_as_any),
    (
        "a_container_among_tracers_is_seen_with_nothing_of_the_monitor",
        a_container_among_tracers_is_seen_with_nothing_of_the_monitor,
    ),
    ("containers_among_tracers_are_as_any", containers_among_tracers_are_as_any),
    ("a_proc_is_only_taken_from_a_container_that_has_it", a_proc_is_only_taken_from_a_container_that_has_it),
];

/// The name under which this program only swaps a folder for a link.
pub const RACER: &str = "racer";
const RACES: usize = 200;

/// Ends when it is killed, or when the folder is gone.
pub fn race() -> ! {
    let volume = std::path::PathBuf::from(std::env::var_os("CRISP_TEST_FOLDER").unwrap()).join("volume");
    let (a, b) = (volume.join("a"), volume.join("b"));
    while renameat_with(CWD, &a, CWD, &b, RenameFlags::EXCHANGE).is_ok() {}
    std::process::exit(0)
}

/// The name under which this program only looks at processes from their first moment, with the rights of a container
/// that has CAP_SYS_PTRACE.
pub const WATCHER: &str = "watcher";

/// Prints the rights and descriptors of children of the test in another PID namespace than its own. Ends when it is
/// killed.
pub fn watch_joins() -> ! {
    let (parent, own) = (std::os::unix::process::parent_id(), namespace("self").unwrap());
    let mut next = 0;
    loop {
        let last = std::fs::read_to_string("/proc/loadavg").unwrap();
        let last: u32 = last.split_whitespace().last().unwrap().parse().unwrap();
        next = next.max(last + 1);
        // Some other process may have had the number, or the numbers begin again.
        for _ in 0..2000 {
            if look_at(next, parent, &own) {
                next += 1;
                break;
            }
        }
        if last > next || last + 100 < next {
            next = 0;
        }
    }
}

fn namespace(pid: &str) -> Option<std::path::PathBuf> {
    std::fs::read_link(format!("/proc/{pid}/ns/pid")).ok()
}

/// Whether there is such a process.
fn look_at(pid: u32, parent: u32, own: &std::path::Path) -> bool {
    let Some(namespace) = namespace(&pid.to_string()) else { return false };
    let entries = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let links: Vec<_> = entries.filter_map(|entry| std::fs::read_link(entry.path()).ok()).collect();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let last_of = |field: &str, radix| {
        let values = status.lines().find_map(|line| line.strip_prefix(field));
        values.and_then(|values| u64::from_str_radix(values.split_whitespace().last()?, radix).ok())
    };
    // The first process of a PID namespace is alone in it.
    let is_first = last_of("NSpid:", 10) == Some(1);
    if namespace != own && !is_first && last_of("PPid:", 10) == Some(parent.into()) {
        let administers = last_of("CapEff:", 16).unwrap_or(0) >> SYS_ADMIN & 1 == 1;
        println!("{}{links:?}", if administers { ADMIN } else { "" });
    }
    true
}

const SYS_ADMIN: u32 = 21;
const ADMIN: &str = "may do all ";

/// A running watcher, and its output.
struct Watcher {
    _process: Racer,
    output: std::fs::File,
}

impl Watcher {
    fn start() -> Self {
        let output = tempfile::tempfile().unwrap();
        let mut watcher = Command::new(std::env::current_exe().unwrap());
        watcher.env("CRISP_TEST", WATCHER).stdout(output.try_clone().unwrap());
        Self { _process: Racer(watcher.spawn().unwrap()), output }
    }

    /// The processes that it has seen before their exec: with their end of the report.
    fn seen(&self) -> Vec<String> {
        let mut text = vec![0; 4 << 20];
        let length = self.output.read_at(&mut text, 0).unwrap();
        let text = String::from_utf8(text[..length].to_vec()).unwrap();
        text.lines().filter(|line| line.contains("socket")).map(str::to_owned).collect()
    }

    /// Calls `run` until `enough` of what it has seen of that.
    fn watch(&self, mut run: impl FnMut(), enough: impl Fn(&[String]) -> bool) -> Vec<String> {
        // All lines about earlier processes are written.
        std::thread::sleep(std::time::Duration::from_millis(50));
        let before = self.seen().len();
        for _ in 0..ATTEMPTS {
            run();
            let seen = self.seen().split_off(before);
            if enough(&seen) {
                return seen;
            }
        }
        panic!("not seen in {ATTEMPTS} attempts: {:?}", self.seen());
    }
}

const ATTEMPTS: usize = 120;

/// A program that is found late, so that its process is seen before.
fn late(process: &mut Process) {
    let mut path: String = (0..8000).map(|number| format!("/none/{number}:")).collect();
    path.push_str("/bin");
    process.args = vec![c("true")];
    process.env = vec![c(&format!("PATH={path}"))];
    process.no_new_privileges = true;
}

/// Whether it has only its streams and its messages to the monitor, and not the right to do all.
fn has_nothing(seen: &str) -> bool {
    let links = seen.trim_matches(['[', ']']).split(", ");
    !seen.starts_with(ADMIN)
        && links.into_iter().all(|link| {
            ["\"socket:", "\"pipe:", "\"/null\"", "\"/own/null\"", "\"/dev/pts/"]
                .iter()
                .any(|known| link.starts_with(known))
        })
}

fn is_emulated() -> bool {
    std::fs::read_to_string("/proc/cpuinfo").unwrap().contains("QEMU TCG")
}

/// It finds the streams of a command and its messages to the monitor, but not the host's /proc.
fn a_command_is_seen_with_nothing_of_the_monitor() {
    if is_emulated() {
        crisp_skip::unsupported!(Without("an emulated processor: the watcher is too slow"));
    }
    let watcher = Watcher::start();
    let mut pod = Files::busybox().pod();
    let init = pod.started(&["/bin/sleep", "1000"]);
    let run = |pod: &Pod| {
        for _ in 0..20 {
            assert_eq!(pod.exec_with(&init, &[], late).code, 0);
        }
    };
    // The same in a pod of which it is not known shows that the watcher is quick enough.
    watcher.watch(|| run(&pod), |seen| seen.iter().any(|seen| !has_nothing(seen)));
    pod.may_be_traced = true;
    let seen = watcher.watch(|| run(&pod), |seen| seen.len() > 5);
    assert!(seen.iter().all(|seen| has_nothing(seen)), "{seen:?}");
}

fn a_container_among_tracers_is_seen_with_nothing_of_the_monitor() {
    if is_emulated() {
        crisp_skip::unsupported!(Without("an emulated processor: the watcher is too slow"));
    }
    let watcher = Watcher::start();
    let files = Files::busybox();
    let mut pod = Pod::enter_for(500, || vec![files.detached()]);
    let init = run::pod_init::start_with_proc().unwrap();
    let mut plan = pod.plan.clone();
    plan.pid = PidNamespace::Pod;
    late(&mut plan.process);
    let start = |pod: &Pod| {
        let context = PodContext { init: Some(init.pidfd.as_fd()), ..pod.context() };
        (0..25).for_each(|_| assert_eq!(pod.run_in(&plan, &context).code, 0));
    };
    // As above.
    watcher.watch(|| start(&pod), |seen| seen.iter().any(|seen| seen.starts_with(ADMIN)));
    pod.may_be_traced = true;
    for copies_proc in ways_to_a_proc() {
        pod.copies_proc = copies_proc;
        let seen = watcher.watch(|| start(&pod), |seen| seen.len() > 5);
        assert!(seen.iter().all(|seen| has_nothing(seen)), "{seen:?}");
    }
}

/// The values of [`PodContext::copies_proc`] for this kernel.
fn ways_to_a_proc() -> Vec<bool> {
    let release = rustix::system::uname();
    let mut numbers =
        release.release().to_str().unwrap().split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    let release = (numbers.next().unwrap(), numbers.next().unwrap());
    assert_eq!(makes_those_of_others(), release >= (6, 17), "{release:?}");
    if makes_those_of_others() { vec![false, true] } else { vec![true] }
}

/// In the pod's PID namespace or that of another container, by all ways to a /proc.
fn containers_among_tracers_are_as_any() {
    let mut pod = Files::busybox().pod();
    let init = run::pod_init::start_with_proc().unwrap();
    let target = pod.started(&["/bin/sleep", "1000"]);
    let script = "read -r pid rest < /proc/self/stat; [ $pid = $$ ] && echo self; for p in /proc/[0-9]*; do \
                  cat $p/comm; done | grep -c -E 'pod-init|sleep|sh'; cat /proc/$$/oom_score_adj; \
                  [ -s /proc/keys ] || echo masked; echo 1 2>&1 >/proc/sys/kernel/shmmax | sed s/.*://; \
                  while read -r id parent device root at options rest; do case $at in /proc*) echo $root $at $options;; \
                  esac; done < /proc/self/mountinfo; cat /proc/self/cgroup | wc -l; ulimit -n; \
                  while read -r line; do case $line in Uid*|Gid*|Cap*|NoNewPrivs*|SigB*|SigI*) echo $line;; esac; done \
                  < /proc/$$/status; mount -t tmpfs none /mnt 2>&1; ls /proc/self/fd | wc -l; exit 7";
    let run = |pod: &Pod, pid: PidNamespace<FdIndex>| {
        let mut plan = pod.plan.clone();
        plan.pid = pid;
        (plan.process.args, plan.process.oom_score_adj) =
            (["/bin/sh", "-c", script].map(c).to_vec(), Some(321));
        plan.process.capabilities.bounding |= 1 << 19;
        let mut fds = pod.fds();
        fds.push(target.0.pidfd.try_clone().unwrap());
        let context = PodContext { init: Some(init.pidfd.as_fd()), ..pod.context() };
        let outcome = pod.run_on(&plan, &context, &fds);
        plan.process.args = vec![c("/bin/nothing")];
        let mut fds = pod.fds();
        fds.push(target.0.pidfd.try_clone().unwrap());
        (outcome.code, outcome.out, outcome.err, pod.run_on(&plan, &context, &fds).error())
    };
    for pid in [PidNamespace::Pod, PidNamespace::Target(FdIndex(1))] {
        (pod.may_be_traced, pod.copies_proc) = (false, false);
        let of_others = run(&pod, pid);
        assert!(of_others.0 == 7 && of_others.1.starts_with("self\n"), "{of_others:?}");
        assert!(of_others.1.contains("\n321\nmasked\n"), "{of_others:?}");
        pod.may_be_traced = true;
        for copies_proc in ways_to_a_proc() {
            pod.copies_proc = copies_proc;
            assert_eq!(run(&pod, pid), of_others, "{copies_proc}");
        }
    }
}

/// On a kernel that cannot make the /proc of another PID namespace.
fn a_proc_is_only_taken_from_a_container_that_has_it() {
    let mut pod = Files::busybox().pod();
    (pod.may_be_traced, pod.copies_proc) = (true, true);
    let all = !0 >> 23;
    let run = |target: &Running| {
        let mut plan = pod.plan.clone();
        plan.pid = PidNamespace::Target(FdIndex(1));
        plan.process.args = vec![c("/bin/true")];
        let mut fds = pod.fds();
        fds.push(target.0.pidfd.try_clone().unwrap());
        pod.run_on(&plan, &pod.context(), &fds)
    };
    let of_others = "open private /proc of another PID namespace: its processes have none at /proc";
    let none = pod.started_with(&["/bin/sleep", "1000"], |plan| {
        plan.mounts.retain(|mount| !matches!(mount.kind, MountKind::Proc));
        (plan.masked_paths, plan.readonly_paths) = (Vec::new(), Vec::new());
    });
    assert!(run(&none).error().starts_with(of_others), "{}", run(&none).error());
    for script in ["mount -t tmpfs none /proc", "mount --bind /proc/1 /proc"] {
        let script = format!("{script}; echo 1 > /ready; exec sleep 1000");
        let replaced = pod.started_with(&["/bin/sh", "-c", &script], |plan| {
            let sets = &mut plan.process.capabilities;
            (sets.bounding, sets.effective, sets.permitted) = (all, all, all);
        });
        let ready = "for i in 1 2 3 4 5 6 7 8 9; do test -e /ready && break; sleep 0.1; done";
        pod.exec_with(&replaced, &["/bin/sh", "-c", ready], |_| {}).good();
        let error = run(&replaced).error();
        assert!(error.contains("kernel before 6.17 cannot make one"), "{error}");
    }
}

fn commands_among_tracers_are_as_any() {
    let mut pod = Files::busybox().pod();
    let init = pod.started(&["/bin/sleep", "1000"]);
    let script = "pwd; ulimit -n; umask; read -r line < /proc/$$/stat; set -- $line; echo parent $4; \
                  [ $6 = $$ ] && echo leads its session; while read -r line; do case $line in \
                  Uid*|Gid*|Groups*|Cap*|NoNewPrivs*|SigB*|SigI*) echo $line;; esac; done < /proc/$$/status; exit 7";
    let run = |pod: &Pod| {
        let outcome = pod.exec_with(&init, &["/bin/sh", "-c", script], |process| {
            (process.uid, process.gid, process.groups, process.cwd) = (7, 8, vec![9], c("/bin"));
            process.umask = Some(0o77);
        });
        let fails = pod.exec_with(&init, &["/bin/nothing"], |_| {}).failed.unwrap().to_string();
        (outcome.code, outcome.out, outcome.err, fails)
    };
    let of_others = run(&pod);
    pod.may_be_traced = true;
    assert_eq!(run(&pod), of_others);
    assert!(of_others.0 == 7 && of_others.1.contains("leads its session"), "{of_others:?}");
}

struct Racer(Child);

impl Drop for Racer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn a_racing_neighbour() {
    let files = Files::busybox();
    let (volume, canary) = (files.volume("volume"), files.volume("canary"));
    std::fs::create_dir(volume.join("a")).unwrap();
    std::os::unix::fs::symlink(&canary, volume.join("b")).unwrap();
    let canary_inside = detached(&canary);
    let racer = Command::new(std::env::current_exe().unwrap()).env("CRISP_TEST", RACER).spawn().unwrap();
    let racer = Racer(racer);
    let pod = Pod::enter_for(RACES, || vec![files.detached(), detached(&volume), detached(&volume)]);
    let mut started = 0;
    for round in 0..RACES {
        let target = format!("/vol/a/made-{round}/deep");
        let outcome = pod.run_with(&["/bin/true"], |plan| {
            plan.mounts.push(bind("/vol", 1, false));
            plan.mounts.push(bind(&target, 2, false));
        });
        started += usize::from(outcome.failed.is_none());
    }
    drop(racer);
    assert!(started > RACES / 4, "the race was never won by the honest: {started} of {RACES}");
    let left = rustix::fs::Dir::read_from(
        rustix::fs::openat(&canary_inside, ".", rustix::fs::OFlags::DIRECTORY, rustix::fs::Mode::empty())
            .unwrap(),
    );
    assert_eq!(left.unwrap().count(), 2, "only . and ..: nothing was made on the host");
}

fn a_terminal_that_is_none() {
    let pod = Files::busybox().pod();
    let script = "mkdir -p /dev/pts; echo > /dev/pts/ptmx; exec sleep 1000";
    let init = pod.started_with(&["/bin/sh", "-c", script], |plan| {
        plan.mounts.retain(|m| !matches!(m.kind, MountKind::Devpts { .. }));
    });
    let written = "for i in 1 2 3 4 5 6 7 8 9; do test -s /dev/pts/ptmx && break; sleep 0.1; done";
    pod.exec_with(&init, &["/bin/sh", "-c", written], |_| {}).good();
    let mut process = pod.plan.process.clone();
    (process.args, process.terminal) = (vec![c("/bin/true")], true);
    let join = crisp_executor::plan::CgroupJoin::default();
    let pidfd = std::os::fd::AsFd::as_fd(&init.0.pidfd);
    let starting =
        run::exec(&pod.id, &process, &join, &[], Stdio::default(), pidfd, &PodContext::default()).unwrap();
    let watched = watch(&starting.report);
    assert_eq!(wait(&starting), 127);
    assert!(watched.terminal.is_none());
    assert_eq!(
        watched.failed.unwrap().to_string(),
        "open terminal \"/dev/pts/ptmx\": is not the terminal multiplexer of a devpts"
    );
}

/// A container that mounts something else over /proc does not keep an exec from its settings.
fn a_hidden_proc_changes_nothing() {
    let pod = Files::busybox().pod();
    let script = "mount -t tmpfs none /proc && mkdir -p /proc/self && echo 7 > /proc/self/oom_score_adj && \
                  touch /ready; exec sleep 1000";
    let init = pod.started_with(&["/bin/sh", "-c", script], |plan| {
        let sets = &mut plan.process.capabilities;
        (sets.bounding, sets.effective, sets.permitted) = (!0 >> 23, !0 >> 23, !0 >> 23);
    });
    let script = "for i in 1 2 3 4 5 6 7 8 9; do test -e /ready && break; sleep 0.1; done; \
                  cat /proc/self/oom_score_adj; mkdir /own && mount -t proc none /own && cat /own/self/oom_score_adj";
    let outcome = pod.exec_with(&init, &["/bin/sh", "-c", script], |process| {
        process.oom_score_adj = Some(321);
        let sets = &mut process.capabilities;
        (sets.bounding, sets.effective, sets.permitted) = (!0 >> 23, !0 >> 23, !0 >> 23);
    });
    assert_eq!(outcome.good(), "7\n321");
}

/// Descriptors that this process has open: the lowest free one tells.
fn descriptors() -> usize {
    let probe = rustix::io::dup(rustix::stdio::stdin()).unwrap();
    usize::try_from(std::os::fd::AsRawFd::as_raw_fd(&probe)).unwrap()
}

fn nothing_stays_behind() {
    let pod = Files::busybox().pod();
    let init = pod.started(&["/bin/sleep", "1000"]);
    let kept: Vec<_> = (0..10).map(|_| pod.fds()).collect();
    let before = descriptors();
    for _ in 0..20 {
        assert!(pod.exec_with(&init, &["/bin/nothing"], |_| {}).failed.is_some());
        assert_eq!(pod.exec_with(&init, &["/bin/true"], |_| {}).code, 0);
    }
    assert_eq!(descriptors(), before);
    drop(kept);
    // A child that dies before it could report anything is an exit like any other.
    let mounts = pod.run_with(&["/bin/cat", "/proc/self/mountinfo"], |_| {});
    assert!(mounts.good().lines().count() < 25, "{mounts:?}");
}

fn the_monitor_can_not_be_looked_into() {
    let pod = Files::busybox().pod();
    let pid = rustix::process::getpid().as_raw_nonzero().get();
    let script =
        format!("ls -l /proc/{pid}/exe; ls /proc/{pid}/root; cat /proc/{pid}/fd/0; cat /proc/{pid}/environ");
    let outcome = pod.run_with(&["/bin/sh", "-c", &script], |plan| {
        plan.pid = PidNamespace::Host;
    });
    assert_eq!(outcome.err.matches("ermission denied").count(), 4, "{outcome:?}");
}

fn a_root_is_attached_once() {
    let files = Files::busybox();
    let root = files.detached();
    let pod = Pod::enter_for(2, || vec![root.try_clone().unwrap()]);
    pod.run(&["/bin/true"]).good();
    let again = pod.run(&["/bin/true"]).error();
    assert_eq!(again, "attach root of the container: is not an unattached mount (each serves one start)");
}
