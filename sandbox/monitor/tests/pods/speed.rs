//! How fast it is. Prints; the bars are those of the benchmark (e2e/bench.sh), which needs an idle machine.

use std::time::{Duration, Instant};

use crisp_executor::cgroup::JoinFds;
use crisp_executor::plan::CgroupJoin;
use crisp_sandbox::link::ExecRequest;

use crate::cgroups::Cgroup;
use crate::harness::{Pod, missing, request, shipped};
use crate::plans::{plan, process};

/// Far above what a loaded machine needs; what it catches is a wait where none should be.
const STUCK: Duration = Duration::from_secs(2);

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
        let request = ExecRequest {
            exec_id: 1,
            container,
            process: process(&["/bin/busybox", "true"]),
            cgroup: CgroupJoin::default(),
            fds: vec![],
            stdin: None,
            stdout: None,
            stderr: None,
            size: None,
            grace_ms: 0,
        };
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

/// Figures for a person: pods made 30 ms apart, as on a node that is not in a burst. Without the
/// pause, RCU grace periods of earlier moves hide the cost.
#[ignore = "prints figures; run it alone, on an idle machine"]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_monitor_born_in_its_cgroup_against_one_that_moves_there() {
    if missing() {
        return;
    }
    let Some(cgroup) = Cgroup::v2() else { return };
    let Some(binary) = shipped() else { crisp_skip::unsupported!(Toolchain("Rust")) };
    for born in [false, true, false, true] {
        let mut times = Vec::new();
        for _ in 0..30 {
            tokio::time::sleep(Duration::from_millis(30)).await;
            let began = Instant::now();
            let mut join = JoinFds { v2: Some(cgroup.folder()), ..JoinFds::default() };
            let later = if born { None } else { join.v2.take() };
            let pod = Pod::fresh_in(&binary, &mut join).await;
            let mut request = request(pod.folder.path());
            request.cgroup_v2 = later.or(join.v2);
            pod.link.open_pod(request).await.unwrap();
            times.push(began.elapsed());
            pod.shutdown().await;
        }
        times.sort();
        let median = times[times.len() / 2];
        eprintln!("born in its cgroup: {born}: min {:?}, median {median:?}, max {:?}", times[0], times[29]);
    }
}
