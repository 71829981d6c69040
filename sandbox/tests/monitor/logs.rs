//! Output on its way to the log file.

use std::time::{Duration, Instant};

use crisp_monitor::wire::ExitStatus;
use crisp_sandbox::link::{ContainerState, Event, MonitorLink};

use crate::harness::{DEADLINE, Pod, exit_of, joined, missing};
use crate::plans::sh;

const COUNT: &str = "n=0; while [ $n -lt 20000 ]; do echo line $n; n=$((n+1)); done";

fn counted() -> String {
    (0..20_000).map(|n| format!("line {n}\n")).collect()
}

#[tokio::test]
async fn all_output_is_in_the_log_when_the_exit_is_reported() {
    if missing() {
        return;
    }
    let pod = Pod::open().await;
    let (id, exit) = pod.run(COUNT).await;
    assert_eq!(exit.status, ExitStatus::Code(0));
    assert_eq!(pod.output(&id, "stdout"), counted());
    pod.shutdown().await;
}

#[tokio::test]
async fn a_reopened_log_goes_on_where_the_old_one_ended() {
    if missing() {
        return;
    }
    let pod = Pod::open().await;
    let mut events = pod.link.events();
    let (id, _) = pod.start(&sh(COUNT)).await.unwrap();
    let path = pod.log_path(&id);
    let mut rotated = Vec::new();
    for n in 0..5 {
        tokio::time::sleep(Duration::from_millis(10)).await;
        let old = path.with_extension(format!("{n}"));
        std::fs::rename(&path, &old).unwrap();
        pod.link.reopen_log(&id, pod.log_file(&id)).await.unwrap();
        rotated.push(old);
    }
    exit_of(&mut events, &id).await;
    rotated.push(path);
    let whole: String = rotated.iter().map(|path| std::fs::read_to_string(path).unwrap()).collect();
    assert_eq!(joined(&whole, "stdout"), counted());
    pod.shutdown().await;
}

#[tokio::test]
async fn nothing_is_lost_while_no_server_is_there() {
    if missing() {
        return;
    }
    let mut pod = Pod::open().await;
    let socket = pod.link.socket().clone();
    let (id, _) = pod.start(&sh(&format!("{COUNT}; exit 9"))).await.unwrap();
    // Another pod's link takes the place of the last one to this pod: its connection closes.
    let other = Pod::open().await;
    drop(std::mem::replace(&mut pod.link, other.link.clone()));
    tokio::time::sleep(Duration::from_millis(300)).await;
    pod.link = MonitorLink::connect(&socket, DEADLINE).await.unwrap();
    other.shutdown().await;
    let began = Instant::now();
    loop {
        let report = pod.link.report().await.unwrap();
        if let ContainerState::Exited(exit) = report.containers[0].state {
            assert_eq!(exit.status, ExitStatus::Code(9));
            break;
        }
        assert!(began.elapsed().as_secs() < 20);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(pod.output(&id, "stdout"), counted());
    pod.shutdown().await;
}

#[tokio::test]
async fn a_full_disk_makes_the_container_wait_and_loses_nothing() {
    if missing() {
        return;
    }
    let pod = Pod::open().await;
    let mut events = pod.link.events();
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let change = |request: &mut crisp_sandbox::link::StartRequest| request.log = Some(full.into());
    let (id, _) = pod.start_with(&sh(COUNT), vec![pod.root()], change).await.unwrap();
    let failing = events.recv().await.unwrap();
    assert_eq!(failing, Event::LogFailing { container: id.clone(), errno: 28 });
    tokio::time::sleep(Duration::from_millis(300)).await;
    let report = pod.link.report().await.unwrap();
    assert_eq!(report.containers[0].state, ContainerState::Running, "it waits");
    assert!(report.containers[0].log.failures > 1 && report.containers[0].log.failing == 28);
    pod.link.reopen_log(&id, pod.log_file(&id)).await.unwrap();
    assert_eq!(events.recv().await.unwrap(), Event::LogWorking { container: id.clone() });
    exit_of(&mut events, &id).await;
    assert_eq!(pod.output(&id, "stdout"), counted());
    pod.shutdown().await;
}

#[tokio::test]
async fn an_exit_is_told_even_if_the_log_cannot_be_written() {
    if missing() {
        return;
    }
    let pod = Pod::open().await;
    let mut events = pod.link.events();
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let change = |request: &mut crisp_sandbox::link::StartRequest| request.log = Some(full.into());
    let (id, _) = pod.start_with(&sh("echo late; exit 4"), vec![pod.root()], change).await.unwrap();
    assert_eq!(exit_of(&mut events, &id).await.status, ExitStatus::Code(4));
    pod.link.reopen_log(&id, pod.log_file(&id)).await.unwrap();
    assert_eq!(pod.output(&id, "stdout"), "late\n");
    pod.shutdown().await;
}

/// Prints what a flood gets through, and how long others have to wait meanwhile.
#[tokio::test]
async fn a_flood_is_written_fast_and_lets_others_in() {
    if missing() {
        return;
    }
    let pod = Pod::open().await;
    let mut events = pod.link.events();
    for (name, text, megabytes) in [
        ("one long line", "x".repeat(100), 100),
        ("lines of 100 bytes", format!("{}\n", "x".repeat(99)), 100),
        // Each becomes 43 bytes in the log.
        ("lines of 2 bytes", "y\n".repeat(50), 5),
    ] {
        std::fs::write(pod.image().join("flood"), text.repeat(10_000 * megabytes)).unwrap();
        let began = Instant::now();
        let (id, _) = pod.start(&sh("busybox cat /flood")).await.unwrap();
        let mut slowest = Duration::ZERO;
        let exit = loop {
            let asked = Instant::now();
            pod.link.report().await.unwrap();
            slowest = slowest.max(asked.elapsed());
            if let Ok(Event::Exited { exit, .. }) = events.try_recv() {
                break exit;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        let speed = megabytes as f64 / began.elapsed().as_secs_f64();
        eprintln!("flood of {name}: {speed:.0} MB/s, slowest report meanwhile {slowest:?}");
        assert_eq!(exit.status, ExitStatus::Code(0));
        let report = pod.link.report().await.unwrap();
        assert_eq!(
            report.containers.iter().find(|c| c.id == id).unwrap().log.written,
            1_000_000 * megabytes as u64
        );
        // A guard against a report that waits for the whole flood on a slow disk, not a bar.
        assert!(slowest < Duration::from_secs(10), "{slowest:?}");
        std::fs::remove_file(pod.log_path(&id)).unwrap();
    }
    pod.shutdown().await;
}
