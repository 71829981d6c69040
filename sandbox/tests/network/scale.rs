//! Many pods on the built-in network.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crisp_sandbox::network::{NetworkConfig, NetworkKind, Networks, Protocol};

use crate::support::CollectGarbage as _;
use crate::support::{
    Namespace, ask_twice, block_on, config, on_private_host, port, sh, tell_callers_who_they_are, traces,
};

fn settings(dir: &std::path::Path) -> NetworkConfig {
    NetworkConfig { kind: NetworkKind::BuiltIn, ..config(dir) }
}

/// Percentiles of times, sorted.
fn percentiles(times: &mut [Duration]) -> [Duration; 2] {
    times.sort();
    [times[times.len() / 2], times[times.len() * 99 / 100]]
}

#[test]
fn two_thousand_cycles_by_eight_workers_leave_nothing() {
    const ROUNDS: usize = 250;
    on_private_host(module_path!(), "two_thousand_cycles_by_eight_workers_leave_nothing", || {
        let dir = tempfile::tempdir().unwrap();
        let before = traces();
        let networks = Networks::open(&settings(dir.path())).unwrap();
        block_on(async {
            let work = |worker: u16| {
                let networks = networks.clone();
                async move {
                    let mut times = Vec::new();
                    // A namespace stays when its pod leaves: what is left in it would be found by the next pod.
                    let mut pod = Namespace::new();
                    for _ in 0..ROUNDS {
                        let start = Instant::now();
                        pod.attach(&networks, &[port(Protocol::Tcp, 20_000 + worker, 80)]).await.unwrap();
                        times.push(start.elapsed());
                        networks.detach(&pod.id).await.unwrap();
                        pod.id = crisp_executor::ids::PodId::random();
                        wait_until_gone(&pod).await;
                    }
                    times
                }
            };
            let start = Instant::now();
            let workers: Vec<_> = (0..8).map(|worker| tokio::spawn(work(worker))).collect();
            let mut times = Vec::new();
            for worker in workers {
                times.extend(worker.await.unwrap());
            }
            let [p50, p99] = percentiles(&mut times);
            println!("{} cycles in {:?}, attach p50 {p50:?} p99 {p99:?}", times.len(), start.elapsed());
            assert_eq!(times.len(), 8 * ROUNDS);
            networks.close_if_unused().await.unwrap();
        });
        assert_eq!(traces(), before);
        for folder in ["state/pods", "root/cni"] {
            assert_eq!(std::fs::read_dir(dir.path().join(folder)).unwrap().count(), 0, "{folder}");
        }
    });
}

/// Interfaces of detached pods are deleted together, some time later.
async fn wait_until_gone(pod: &Namespace) {
    for _ in 0..500 {
        if pod.run(|| !std::path::Path::new("/proc/thread-self/net/dev_snmp6/eth0").exists()) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the interface of a detached pod is still there after 5 s");
}

#[test]
fn five_hundred_pods_are_on_one_bridge() {
    const PODS: usize = 500;
    on_private_host(module_path!(), "five_hundred_pods_are_on_one_bridge", || {
        let dir = tempfile::tempdir().unwrap();
        let before = traces();
        let networks = Networks::open(&settings(dir.path())).unwrap();
        let pods: Arc<Vec<Namespace>> = Arc::new((0..PODS).map(|_| Namespace::new()).collect());
        block_on(async {
            let mut times = Vec::new();
            for pod in pods.iter() {
                let start = Instant::now();
                pod.attach(&networks, &[]).await.unwrap();
                times.push(start.elapsed());
            }
            let last: Duration = times[PODS - 50..].iter().sum::<Duration>() / 50;
            let [p50, p99] = percentiles(&mut times);
            println!("attach p50 {p50:?} p99 {p99:?}, mean of the last fifty {last:?}");
            tell_callers_who_they_are(&pods[0], 80);
            // The addresses go up from .2, and ::2.
            for (first, last) in [("10.88.0.2:80", "10.88.1.245"), ("[fd88::2]:80", "fd88::1f5")] {
                assert_eq!(pods[PODS - 1].run(move || ask_twice(first)).unwrap(), last);
            }
            drop(networks);
            // The next server knows them all.
            let networks = Networks::open(&settings(dir.path())).unwrap();
            assert_eq!(networks.recorded().len(), PODS);
            assert_eq!(sh("ip -o link show master crisp0 | wc -l").trim(), "500");
            assert_eq!(networks.collect_garbage(&[]).await.unwrap().len(), PODS);
            networks.close_if_unused().await.unwrap();
        });
        assert_eq!(traces(), before);
    });
}
