//! The memory of a monitor. It is built here as it is released: static, not relocated, for size.

use std::time::Duration;

use crate::harness::{Pod, missing, request, shipped};
use crate::plans::sh;

/// Proportional share of memory, kB.
const BUDGET: u64 = 600;

fn pss(pid: i32) -> (u64, String) {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).unwrap();
    (line.trim().trim_end_matches(" kB").parse().unwrap(), text)
}

#[tokio::test]
async fn a_monitor_stays_small() {
    if missing() {
        return;
    }
    let Some(binary) = shipped() else { crisp_skip::unsupported!(Toolchain("Rust")) };
    let mut pods = Vec::new();
    for _ in 0..5 {
        let pod = Pod::fresh_of(&binary).await;
        pod.link.open_pod(request(pod.folder.path())).await.unwrap();
        pods.push(pod);
    }
    eprintln!("idle, one of five: {} kB", pss(pods[0].pid).0);
    for pod in &pods {
        pod.start(&sh("while :; do busybox sleep 1000; done")).await.unwrap();
        pod.run("n=0; while [ $n -lt 2000 ]; do echo line $n; n=$((n+1)); done").await;
    }
    tokio::time::sleep(Duration::from_secs(3)).await;
    let (with_container, rollup) = pss(pods[0].pid);
    eprintln!("with a container and after much output: {with_container} kB\n{rollup}");
    for pod in pods.split_off(1) {
        pod.shutdown().await;
    }
    tokio::time::sleep(Duration::from_secs(3)).await;
    let (alone, rollup) = pss(pods[0].pid);
    eprintln!("alone: {alone} kB");
    assert!(alone < BUDGET, "{rollup}");
    pods.pop().unwrap().shutdown().await;
}
