//! Further processes in a container.

use std::io::Read;
use std::time::{Duration, Instant};

use crisp_executor::ids::ContainerId;
use crisp_executor::plan::{Capabilities, FdIndex, PidNamespace, Process};
use crisp_monitor::wire::{ExitStatus, Failure};
use crisp_sandbox::link::{ExecRequest, LinkError, MonitorLink, Started};

use crate::cgroups::Cgroup;
use crate::harness::{DEADLINE, Pod, gone, missing, until};
use crate::plans::{exec_request, process, sh};

fn request(
    container: &ContainerId,
    exec_id: u64,
    process: &Process,
    stdout: Option<std::io::PipeWriter>,
) -> ExecRequest {
    ExecRequest { stdout: stdout.map(Into::into), ..exec_request(exec_id, container, process.clone()) }
}

async fn exec(
    link: &MonitorLink,
    container: &ContainerId,
    exec_id: u64,
    process: &Process,
    stdout: Option<std::io::PipeWriter>,
) -> Result<Started, LinkError> {
    link.exec(request(container, exec_id, process, stdout)).await
}

async fn sleeper() -> (Pod, ContainerId) {
    let pod = Pod::open().await;
    let (id, _) = pod.start(&sh("echo up; while :; do busybox sleep 1000; done")).await.unwrap();
    (pod, id)
}

#[tokio::test]
async fn an_exec_talks_ends_and_has_a_code() {
    if missing() {
        return;
    }
    let (pod, id) = sleeper().await;
    let (mut read, write) = std::io::pipe().unwrap();
    let process_ = process(&["/bin/sh", "-c", "cat /proc/1/comm; exit 42"]);
    let exec_id = pod.link.next_exec_id();
    exec(&pod.link, &id, exec_id, &process_, Some(write)).await.unwrap();
    assert_eq!(pod.link.wait_exec(exec_id).await.unwrap(), ExitStatus::Code(42));
    let mut text = String::new();
    read.read_to_string(&mut text).unwrap();
    assert_eq!(text, "sh\n");
    let again = pod.link.wait_exec(exec_id).await.unwrap_err();
    assert_eq!(again.failure(), Some(&Failure::UnknownExec { exec: exec_id }));
    pod.shutdown().await;
}

#[tokio::test]
async fn an_exec_that_cannot_start_says_why() {
    if missing() {
        return;
    }
    let (pod, id) = sleeper().await;
    let error = exec(&pod.link, &id, 1, &process(&["nothing"]), None).await.unwrap_err();
    assert!(matches!(error, LinkError::Stage(_)) && error.to_string().contains("nothing"), "{error}");
    let unknown = exec(&pod.link, &ContainerId::random(), 2, &process(&["/bin/sh"]), None).await.unwrap_err();
    assert!(matches!(unknown.failure(), Some(Failure::UnknownContainer { .. })), "{unknown}");
    assert_eq!(pod.link.report().await.unwrap().containers[0].execs, 0);
    pod.shutdown().await;
}

#[tokio::test]
async fn a_late_response_comes_with_the_end_or_soon_after_the_start() {
    if missing() {
        return;
    }
    let (pod, id) = sleeper().await;
    let late = |exec_id, words: &[&str]| {
        pod.link.exec(ExecRequest { late_response: true, ..request(&id, exec_id, &process(words), None) })
    };
    late(1, &["/bin/sh", "-c", "exit 3"]).await.unwrap();
    assert_eq!(pod.link.wait_exec(1).await.unwrap(), ExitStatus::Code(3));

    let goes_on = late(2, &["/bin/busybox", "sleep", "1000"]);
    let started = tokio::time::timeout(DEADLINE, goes_on).await.expect("a response before the end").unwrap();
    assert!(std::path::Path::new(&format!("/proc/{}", started.pid)).exists());
    pod.link.kill_exec(2).await.unwrap();
    assert_eq!(pod.link.wait_exec(2).await.unwrap(), ExitStatus::Signal(9));

    let error = late(3, &["nothing"]).await.unwrap_err();
    assert!(matches!(error, LinkError::Stage(_)), "{error}");
    pod.shutdown().await;
}

#[tokio::test]
async fn killing_an_exec_takes_its_children_along() {
    if missing() {
        return;
    }
    let (pod, id) = sleeper().await;
    let (mut read, write) = std::io::pipe().unwrap();
    let process_ = process(&["/bin/sh", "-c", "busybox sleep 1000 & busybox sleep 1000"]);
    exec(&pod.link, &id, 5, &process_, Some(write)).await.unwrap();
    let taken = exec(&pod.link, &id, 5, &process_, None).await.unwrap_err();
    assert_eq!(taken.failure(), Some(&Failure::ExecExists { exec: 5 }));
    pod.link.kill_exec(5).await.unwrap();
    assert_eq!(pod.link.wait_exec(5).await.unwrap(), ExitStatus::Signal(9));
    // End-of-file: the child that was left in the background held the pipe as well.
    let mut rest = Vec::new();
    let whole = tokio::task::spawn_blocking(move || read.read_to_end(&mut rest));
    tokio::time::timeout(DEADLINE, whole).await.unwrap().unwrap().unwrap();
    pod.shutdown().await;
}

#[tokio::test]
async fn an_exec_ends_with_its_connection() {
    if missing() {
        return;
    }
    let (pod, id) = sleeper().await;
    let other = pod.connect().await;
    let started = exec(&other, &id, 1, &process(&["/bin/busybox", "sleep", "1000"]), None).await.unwrap();
    // Ids are per connection.
    exec(&pod.link, &id, 1, &process(&["/bin/busybox", "true"]), None).await.unwrap();
    assert_eq!(pod.link.wait_exec(1).await.unwrap(), ExitStatus::Code(0));
    drop(other);
    gone(started.pid).await;
    assert_eq!(pod.link.report().await.unwrap().containers[0].execs, 0);
    pod.shutdown().await;
}

#[tokio::test]
async fn a_dropped_exec_request_leaves_no_process() {
    if missing() {
        return;
    }
    let (pod, id) = sleeper().await;
    let process_ = process(&["/bin/busybox", "sleep", "1000"]);
    for n in 0..20 {
        let exec = exec(&pod.link, &id, 100 + n, &process_, None);
        let _ = tokio::time::timeout(Duration::from_micros(100 * n), exec).await.map(|started| {
            started.unwrap();
        });
        let _ = pod.link.kill_exec(100 + n).await;
    }
    let began = Instant::now();
    while pod.link.report().await.unwrap().containers[0].execs > 0 {
        assert!(began.elapsed() < DEADLINE, "execs are left");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    pod.shutdown().await;
}

/// How long a response that must not come is waited for.
const SHORT: Duration = Duration::from_millis(200);

/// Containers of this pod have all rights: commands in them are made by helpers, here in a cgroup that is frozen.
#[tokio::test]
async fn a_command_whose_helper_is_frozen_holds_up_no_other() {
    if missing() {
        return;
    }
    let Some(cgroup) = Cgroup::v2() else { return };
    let (pod, id) = sleeper().await;
    cgroup.freeze(true);
    let other = pod.connect().await;
    let frozen = |exec_id| {
        let mut request = request(&id, exec_id, &process(&["/bin/busybox", "sh", "-c", "exit 4"]), None);
        request.cgroup.v2 = Some(FdIndex(0));
        request.fds = vec![cgroup.folder()];
        other.exec(request)
    };
    let (mut killed, mut thawed) = (std::pin::pin!(frozen(1)), std::pin::pin!(frozen(2)));
    assert!(tokio::time::timeout(SHORT, &mut killed).await.is_err());
    assert!(tokio::time::timeout(SHORT, &mut thawed).await.is_err());
    exec(&pod.link, &id, 3, &process(&["/bin/busybox", "true"]), None).await.unwrap();
    assert_eq!(pod.link.wait_exec(3).await.unwrap(), ExitStatus::Code(0));
    assert_eq!(cgroup.pids().len(), 2, "the others are still in it");
    other.kill_exec(1).await.unwrap();
    let error = killed.await.unwrap_err();
    assert!(error.to_string().contains("killed before"), "{error}");
    cgroup.freeze(false);
    thawed.await.unwrap();
    assert_eq!(other.wait_exec(2).await.unwrap(), ExitStatus::Code(4));
    cgroup.freeze(true);
    let mut last = std::pin::pin!(frozen(4));
    assert!(tokio::time::timeout(SHORT, &mut last).await.is_err());
    // Which also kills a helper.
    pod.shutdown().await;
    assert!(cgroup.pids().is_empty());
}

#[tokio::test]
async fn a_container_is_killed_whose_helper_is_frozen() {
    if missing() {
        return;
    }
    let Some(cgroup) = Cgroup::v2() else { return };
    let (pod, _) = Pod::open_with(|request| request.shared_pid = true).await;
    cgroup.freeze(true);
    let mut plan = sh("exit 0");
    (plan.pid, plan.cgroup.v2) = (PidNamespace::Pod, Some(FdIndex(1)));
    let mut start = Box::pin(pod.start_with(&plan, vec![pod.root(), cgroup.folder()], |_| {}));
    assert!(tokio::time::timeout(SHORT, &mut start).await.is_err());
    let report = pod.link.report().await.unwrap();
    pod.link.signal(&report.containers[0].id, 9, true).await.unwrap();
    let error = start.await.unwrap_err();
    assert!(error.to_string().contains("killed before"), "{error}");
    assert!(pod.link.report().await.unwrap().containers.is_empty());
    until("its end", || cgroup.pids().is_empty()).await;
    pod.shutdown().await;
}

/// Commands of containers that may not trace are cloned straight into the PID namespace: here one that is frozen.
#[tokio::test]
async fn a_tracer_waits_for_what_was_cloned_before_it() {
    if missing() {
        return;
    }
    let Some(cgroup) = Cgroup::v2() else { return };
    let (pod, _) = Pod::open_with(|request| request.shared_pid = true).await;
    let mut plain = sh("echo up; while :; do busybox sleep 1000; done");
    (plain.pid, plain.process.capabilities) = (PidNamespace::Pod, Capabilities::default());
    let (id, _) = pod.start(&plain).await.unwrap();
    cgroup.freeze(true);
    let other = pod.connect().await;
    let mut probe = process(&["/bin/busybox", "true"]);
    probe.capabilities = Capabilities::default();
    let mut request = request(&id, 1, &probe, None);
    request.cgroup.v2 = Some(FdIndex(0));
    request.fds = vec![cgroup.folder()];
    let mut exposed = std::pin::pin!(other.exec(request));
    assert!(tokio::time::timeout(SHORT, &mut exposed).await.is_err());
    let mut tracer = sh("exit 0");
    tracer.pid = PidNamespace::Pod;
    let mut start = Box::pin(pod.start(&tracer));
    assert!(tokio::time::timeout(SHORT, &mut start).await.is_err(), "it is held");
    exec(&pod.link, &id, 3, &probe, None).await.unwrap();
    cgroup.freeze(false);
    exposed.await.unwrap();
    start.await.unwrap();
    pod.shutdown().await;
}

#[tokio::test]
async fn a_terminal_comes_to_the_client() {
    if missing() {
        return;
    }
    let (pod, id) = sleeper().await;
    let mut process_ = process(&[
        "/bin/sh",
        "-c",
        "until busybox stty size 2>/dev/null | busybox grep -q '20 90'; do :; done; busybox tty",
    ]);
    process_.terminal = true;
    let request = ExecRequest {
        size: Some(crisp_sandbox::link::WindowSize { columns: 90, rows: 20 }),
        ..exec_request(9, &id, process_)
    };
    let started = pod.link.exec(request).await.unwrap();
    let mut master = std::fs::File::from(started.terminal.expect("the master"));
    let mut text = Vec::new();
    let mut buffer = [0; 256];
    // The end of a terminal is an error on its master.
    while let Ok(got @ 1..) = master.read(&mut buffer) {
        text.extend_from_slice(&buffer[..got]);
    }
    assert_eq!(String::from_utf8(text).unwrap(), "/dev/pts/0\r\n");
    assert_eq!(pod.link.wait_exec(9).await.unwrap(), ExitStatus::Code(0));
    pod.shutdown().await;
}

#[tokio::test]
async fn an_exec_whose_server_is_gone_hears_sighup_and_is_killed_after_its_grace() {
    if missing() {
        return;
    }
    let (pod, id) = sleeper().await;
    let link = pod.connect().await;
    let (mut read, write) = std::io::pipe().unwrap();
    let script = "trap 'echo hup' HUP; echo up; while :; do busybox sleep 0.1; done";
    let request = ExecRequest {
        stdout: Some(write.into()),
        grace_ms: 700,
        ..exec_request(1, &id, process(&["/bin/sh", "-c", script]))
    };
    link.exec(request).await.unwrap();
    let mut up = [0; 3];
    read.read_exact(&mut up).unwrap();
    let began = Instant::now();
    drop(link);
    let reading = tokio::task::spawn_blocking(move || {
        let mut text = String::new();
        read.read_to_string(&mut text).map(|_| text)
    });
    let text = tokio::time::timeout(DEADLINE, reading).await.unwrap().unwrap().unwrap();
    assert_eq!(text, "hup\n");
    assert!(began.elapsed() >= Duration::from_millis(650), "{:?}", began.elapsed());
    while pod.link.report().await.unwrap().containers[0].execs > 0 {
        assert!(began.elapsed() < DEADLINE, "the exec is left");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    pod.shutdown().await;
}

#[tokio::test]
async fn an_exec_is_signalled_by_its_own_client_only() {
    if missing() {
        return;
    }
    let (pod, id) = sleeper().await;
    let process_ = process(&["/bin/busybox", "sleep", "1000"]);
    exec(&pod.link, &id, 5, &process_, None).await.unwrap();
    let other = pod.connect().await;
    let refused = other.signal_exec(5, 15).await.unwrap_err();
    assert_eq!(refused.failure(), Some(&Failure::UnknownExec { exec: 5 }));
    pod.link.signal_exec(5, 15).await.unwrap();
    assert_eq!(pod.link.wait_exec(5).await.unwrap(), ExitStatus::Signal(15));
    pod.shutdown().await;
}
