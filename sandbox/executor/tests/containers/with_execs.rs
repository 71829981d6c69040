//! Processes that join others: execs, and containers with a shared PID namespace.

use std::io::Read;

use crisp_executor::plan::Rlimit;
use crisp_executor::run::{self, PodContext, Stdio};

use crate::lab::{Files, wait, watch};
use crate::plans::{self, c};

pub const TESTS: &[crate::Test] = &[
    ("exec_joins_everything", exec_joins_everything),
    ("exec_with_a_terminal", exec_with_a_terminal),
    ("exec_after_the_end", exec_after_the_end),
    ("a_shared_pid_namespace", a_shared_pid_namespace),
    ("host_pid_namespace", host_pid_namespace),
];

fn exec_joins_everything() {
    let pod = Files::busybox().pod();
    let init = pod.started(&["/bin/sh", "-c", "echo secret > /dev/here; exec sleep 1000"]);
    let exec = |script: &str| pod.exec_with(&init, &["/bin/sh", "-c", script], |_| {});
    let found = "for i in 1 2 3 4 5; do test -s /dev/here || sleep 0.1; done; cat /dev/here";
    assert_eq!(exec(found).good(), "secret");
    assert_eq!(
        exec("readlink /proc/1/ns/mnt /proc/1/ns/pid /proc/1/ns/cgroup").out,
        exec("readlink /proc/self/ns/mnt /proc/self/ns/pid /proc/self/ns/cgroup").out
    );
    assert_eq!(exec("exit 9").code, 9);
    let user = pod.exec_with(&init, &["/bin/sh", "-c", "id -u; id -g; id -G; pwd; ulimit -n"], |process| {
        (process.uid, process.gid, process.groups) = (33, 44, vec![55]);
        process.cwd = c("/bin");
        process.rlimits = vec![Rlimit { resource: libc::RLIMIT_NOFILE, soft: 99, hard: 99 }];
        process.seccomp = Some(plans::filter());
    });
    assert_eq!(user.good(), "33\n44\n44 55\n/bin\n99");
    let missing = pod.exec_with(&init, &["/bin/nothing"], |_| {});
    assert_eq!(missing.error(), "exec \"/bin/nothing\": no such file or directory in the image");
    let lost = pod.exec_with(&init, &["/bin/true"], |process| process.cwd = c("/no/where"));
    assert_eq!(lost.error(), "working directory \"/no/where\": does not exist in the container");
    // Our own PID namespace is the monitor's again.
    assert!(rustix::process::getpid().as_raw_nonzero().get() > 1);
    assert_eq!(pod.sh("echo $$").good(), "1");
}

fn exec_with_a_terminal() {
    let pod = Files::busybox().pod();
    let init = pod.started(&["/bin/sleep", "1000"]);
    let mut process = pod.plan.process.clone();
    process.args = ["/bin/sh", "-c", "tty; exit 5"].map(c).to_vec();
    process.terminal = true;
    let join = crisp_executor::plan::CgroupJoin::default();
    let init = std::os::fd::AsFd::as_fd(&init.0.pidfd);
    let starting =
        run::exec(&pod.id, &process, &join, &[], Stdio::default(), init, &PodContext::default()).unwrap();
    let mut master = std::fs::File::from(watch(&starting.report).terminal.unwrap());
    let mut text = Vec::new();
    let _ = master.read_to_end(&mut text);
    assert_eq!(String::from_utf8_lossy(&text).trim_end(), "/dev/pts/0");
    assert_eq!(wait(&starting), 5);
}

fn exec_after_the_end() {
    let pod = Files::busybox().pod();
    let init = pod.started(&["/bin/true"]);
    assert_eq!(wait(&init.0), 0);
    let outcome = pod.exec_with(&init, &["/bin/true"], |_| {});
    assert_eq!(outcome.error(), "join PID namespace of a process that has ended: nothing runs in it");
    assert_eq!(pod.sh("echo $$").good(), "1", "and the monitor is not lost in it");
}

fn a_shared_pid_namespace() {
    let pod = Files::busybox().pod();
    let init = run::pod_init::start(None).unwrap();
    let context = PodContext { init: Some(std::os::fd::AsFd::as_fd(&init.pidfd)), ..PodContext::default() };
    let mut plan = pod.plan.clone();
    plan.pid = crisp_executor::plan::PidNamespace::Pod;
    plan.process.args = ["/bin/sh", "-c", "(sleep 0.1 &) ; sleep 0.3; cat /proc/1/comm; \
        grep -l zombie /proc/[0-9]*/status | wc -l; grep -E '^(Uid|CapPrm|NoNewPrivs)' /proc/1/status; ls /proc/1/fd | wc -l; exit $(($$ > 1))"]
        .map(c).to_vec();
    let (out, stdout) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    let stdio = Stdio { stdout: Some(stdout), ..Stdio::default() };
    let starting = run::start(&pod.id, &plan, &pod.fds(), stdio, &context).unwrap();
    let watched = watch(&starting.report);
    assert!(watched.failed.is_none(), "{watched:?}");
    let mut text = String::new();
    std::fs::File::from(out).read_to_string(&mut text).unwrap();
    assert!(text.starts_with("pod-init\n0\n"), "named, and the orphan is reaped: {text}");
    assert!(text.contains("Uid:\t65535\t65535") && text.contains("CapPrm:\t0000000000000000"), "{text}");
    assert!(text.contains("NoNewPrivs:\t1") && text.ends_with("0\n"), "{text}");
    assert_eq!(wait(&starting), 1);
    rustix::process::pidfd_send_signal(&init.pidfd, rustix::process::Signal::KILL).unwrap();
}

fn host_pid_namespace() {
    let pod = Files::busybox().pod();
    let pid = rustix::process::getpid().as_raw_nonzero().get();
    let outcome =
        pod.run_with(&["/bin/sh", "-c", &format!("test -d /proc/{pid} && test $$ -gt 1")], |plan| {
            plan.pid = crisp_executor::plan::PidNamespace::Host;
        });
    outcome.good();
    let none = pod.run_with(&["/bin/true"], |plan| plan.pid = crisp_executor::plan::PidNamespace::Pod);
    assert_eq!(none.error(), "join PID namespace of the pod: the pod has no shared one");
}
