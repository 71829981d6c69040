//! How fast it is. Prints; the bars are those of the benchmark (e2e/bench.sh), which needs an idle machine.

use std::time::{Duration, Instant};

use crate::harness::{Pod, missing, request, shipped};
use crate::plans::{exec_request, plan, process};

/// Far above what a loaded machine needs; what it catches is a wait where none should be.
const STUCK: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_step_of_a_pod_waits_without_need() {
    if missing() {
        return;
    }
    let Some(binary) = shipped() else { crisp_skip::unsupported!(Toolchain("Rust")) };
    let (mut hello, mut open, mut start, mut exec) = (vec![], vec![], vec![], vec![]);
    for _ in 0..40 {
        let pod = Pod::fresh_of(&binary).await;
        hello.push(pod.greeted_after);
        let began = Instant::now();
        pod.link.open_pod(request(pod.folder.path())).await.unwrap();
        open.push(began.elapsed());
        let began = Instant::now();
        let (container, _) = pod.start(&plan(&["/bin/busybox", "sleep", "1000"])).await.unwrap();
        start.push(began.elapsed());
        let began = Instant::now();
        let request = exec_request(1, &container, process(&["/bin/busybox", "true"]));
        pod.link.exec(request).await.unwrap();
        pod.link.wait_exec(1).await.unwrap();
        exec.push(began.elapsed());
        pod.shutdown().await;
    }
    for (name, times) in [
        ("spawn to hello", &mut hello),
        ("open pod", &mut open),
        ("start container", &mut start),
        ("exec true", &mut exec),
    ] {
        times.sort();
        let (min, median) = (times[0], times[times.len() / 2]);
        eprintln!("{name}: min {min:?}, median {median:?}");
        assert!(median < STUCK, "{name}: {times:?}");
    }
}
