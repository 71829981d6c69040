//! How fast it is. Prints, and fails only where something is badly wrong.

use std::time::{Duration, Instant};

use crate::harness::{Pod, missing, request, shipped};
use crate::plans::plan;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_is_up_soon() {
    if missing() {
        return;
    }
    let binary = shipped();
    let (mut hello, mut open, mut start) = (vec![], vec![], vec![]);
    for _ in 0..20 {
        let pod = Pod::fresh_of(&binary).await;
        hello.push(pod.greeted_after);
        let began = Instant::now();
        pod.link.open_pod(request(pod.folder.path())).await.unwrap();
        open.push(began.elapsed());
        let began = Instant::now();
        pod.start(&plan(&["/bin/busybox", "true"])).await.unwrap();
        start.push(began.elapsed());
        pod.shutdown().await;
    }
    for (name, times) in
        [("spawn to hello", &mut hello), ("open pod", &mut open), ("start container", &mut start)]
    {
        times.sort();
        let (min, median) = (times[0], times[times.len() / 2]);
        eprintln!("{name}: min {min:?}, median {median:?}");
        assert!(median < Duration::from_millis(100), "{name}: {times:?}");
    }
}
