//! Ends of servers, monitors and containers.

use std::path::Path;
use std::process::{Command, Stdio};

use crisp_executor::ids::PodId;
use crisp_monitor::wire::{ExitStatus, Failure};
use crisp_sandbox::link::{ContainerState, LinkError, MonitorLink};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, bind, listen, socket};
use rustix::process::{Pid, Signal, kill_process};
use tokio::sync::broadcast::error::RecvError;

use crate::harness::{DEADLINE, Pod, exit_of, gone, missing, request};
use crate::plans::{plan, sh};

#[tokio::test]
async fn a_new_server_finds_everything() {
    if missing() {
        return;
    }
    let pod = Pod::open().await;
    let (ended, exit) = pod.run("exit 3").await;
    let (running, started) = pod.start(&plan(&["/bin/busybox", "sleep", "1000"])).await.unwrap();
    let other = pod.connect().await;
    assert!(other.greeting().opened);
    let report = other.report().await.unwrap();
    let find = |id| report.containers.iter().find(|c| c.id == id).unwrap();
    assert_eq!(find(ended).state, ContainerState::Exited(exit));
    assert_eq!(find(running.clone()).state, ContainerState::Running);
    assert_eq!(find(running.clone()).pid, started.pid);
    let network = other.network().await.unwrap();
    assert!(rustix::fs::fstat(&network.netns).is_ok());
    // Both hear of the end.
    let (mut here, mut there) = (pod.link.events(), other.events());
    other.signal(&running, 9, false).await.unwrap();
    assert_eq!(exit_of(&mut here, &running).await, exit_of(&mut there, &running).await);
    pod.shutdown().await;
}

#[tokio::test]
async fn nothing_but_shutdown_ends_a_monitor() {
    if missing() {
        return;
    }
    let pod = Pod::open().await;
    for signal in [Signal::TERM, Signal::INT, Signal::HUP, Signal::PIPE, Signal::QUIT, Signal::USR1] {
        kill_process(Pid::from_raw(pod.pid).unwrap(), signal).unwrap();
    }
    let (id, _) = pod.start(&sh("while :; do busybox sleep 1000; done")).await.unwrap();
    let refused = pod.link.shutdown(false).await.unwrap_err();
    assert_eq!(refused.failure(), Some(&Failure::ContainersRunning { count: 1 }));
    let mut events = pod.link.events();
    pod.link.signal(&id, 9, true).await.unwrap();
    assert_eq!(exit_of(&mut events, &id).await.status, ExitStatus::Signal(9));
    pod.link.shutdown(false).await.unwrap();
    gone(pod.pid).await;
}

/// A monitor in a PID namespace of its own, whose init sends it SIGTERM for each line of this end of its input.
fn below_an_init(folder: &Path) -> (std::process::Child, std::fs::File) {
    let listener = socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap();
    bind(&listener, &SocketAddrUnix::new(folder.join("monitor.sock")).unwrap()).unwrap();
    listen(&listener, 8).unwrap();
    let fifo = folder.join("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let script = r#"exec 3<&0; "$0" "$1" <&3 3<&- & exec 3<&- < /dev/null; while read line; do kill -TERM $!; : > "$2-sent"; done < "$2""#;
    let init = Command::new("unshare")
        .args(["--pid", "--fork", "--kill-child", "sh", "-c", script])
        .arg(crate::harness::monitor())
        .arg(PodId::random().as_str())
        .arg(&fifo)
        .stdin(Stdio::from(listener))
        .spawn()
        .unwrap();
    (init, std::fs::OpenOptions::new().write(true).open(fifo).unwrap())
}

/// A stop of the pod's scope or slice, and of the host, tells all processes; it would wait long for one that
/// stays.
#[tokio::test]
async fn a_monitor_that_the_hosts_init_ends_ends_with_its_last_container() {
    if missing() || crisp_skip::lacks(&["unshare"]) {
        return;
    }
    for has_container in [false, true] {
        let pod = Pod::fresh().await;
        let folder = tempfile::tempdir().unwrap();
        let (mut init, mut orders) = below_an_init(folder.path());
        let link = MonitorLink::connect(&folder.path().join("monitor.sock"), DEADLINE).await.unwrap();
        link.open_pod(request(folder.path())).await.unwrap();
        let inside = Pod { folder, pid: 0, link, greeted_after: DEADLINE };
        let mut events = inside.link.events();
        let container = has_container.then_some(sh("while :; do busybox sleep 1000; done"));
        let container = match container {
            Some(plan) => Some(inside.start_with(&plan, vec![pod.root()], |_| {}).await.unwrap().0),
            None => None,
        };
        std::io::Write::write_all(&mut orders, b"end\n").unwrap();
        if let Some(id) = &container {
            let sent = inside.folder.path().join("fifo-sent");
            crate::harness::until("the signal", || sent.exists()).await;
            // Two answers later it has taken the signal.
            for _ in 0..2 {
                assert_eq!(inside.link.report().await.unwrap().containers.len(), 1);
            }
            inside.link.signal(id, 9, true).await.unwrap();
            assert_eq!(exit_of(&mut events, id).await.status, ExitStatus::Signal(9));
        }
        let ended = async { while !matches!(events.recv().await, Err(RecvError::Closed)) {} };
        tokio::time::timeout(DEADLINE, ended).await.expect("the end of the monitor");
        drop(orders);
        init.wait().unwrap();
        pod.shutdown().await;
    }
}

#[tokio::test]
async fn a_forced_shutdown_leaves_nothing() {
    if missing() {
        return;
    }
    let (pod, opened) = Pod::open_with(|request| request.shared_pid = true).await;
    let namespaces = ["net", "mnt", "ipc", "uts"].map(|n| format!("/proc/{}/ns/{n}", pod.pid));
    // Held, so that their numbers are not given to others.
    let _held = namespaces.each_ref().map(|path| std::fs::File::open(path).unwrap());
    let namespaces = namespaces.map(|path| std::fs::read_link(path).unwrap());
    let mut pids = vec![pod.pid, opened.init.unwrap()];
    for _ in 0..3 {
        pids.push(pod.start(&plan(&["/bin/busybox", "sleep", "1000"])).await.unwrap().1.pid);
    }
    drop(opened);
    let mounts_before = std::fs::read_to_string("/proc/self/mounts").unwrap();
    let mut events = pod.link.events();
    pod.link.shutdown(true).await.unwrap();
    for pid in pids {
        gone(pid).await;
    }
    while !matches!(events.recv().await, Err(RecvError::Closed)) {}
    assert!(matches!(pod.link.report().await, Err(LinkError::Gone { .. })));
    assert_eq!(std::fs::read_to_string("/proc/self/mounts").unwrap(), mounts_before);
    for process in std::fs::read_dir("/proc").unwrap().flatten() {
        for name in ["net", "mnt", "ipc", "uts"] {
            if let Ok(of) = std::fs::read_link(process.path().join("ns").join(name)) {
                assert!(
                    !namespaces.contains(&of),
                    "{} is still in {}",
                    process.path().display(),
                    of.display()
                );
            }
        }
    }
}

#[tokio::test]
async fn containers_of_a_killed_monitor_have_left_their_exits() {
    if missing() {
        return;
    }
    let pod = Pod::open().await;
    let (id, exit) = pod.run("exit 6").await;
    let mut events = pod.link.events();
    kill_process(Pid::from_raw(pod.pid).unwrap(), Signal::KILL).unwrap();
    assert_eq!(tokio::time::timeout(DEADLINE, events.recv()).await.unwrap(), Err(RecvError::Closed));
    assert!(pod.link.is_closed());
    gone(pod.pid).await;
    assert!(!Path::new(&format!("/proc/{}", pod.pid)).exists(), "reaped");
    let record = crisp_monitor::wire::ExitRecord::file_name(&id);
    let text = std::fs::read_to_string(pod.folder.path().join(record)).unwrap();
    assert_eq!(crisp_monitor::wire::ExitRecord::parse(&text).unwrap().exit, exit);
}
