//! Limits for the resources of pods. None of them depends on time: `e2e/bench.sh` measures that.

use std::path::{Path, PathBuf};

use crisp_e2e::bench::series::{IDLE, Series, Up};
use crisp_e2e::bench::{Target, memory, vanish};
use crisp_e2e::{Lab, Result, needs};
use k8s_cri::v1::NamespaceMode;

const PODS: usize = 10;
/// Streaming sessions whose clients vanish.
const LOST: usize = 300;

/// A resource of all pods together, with the limit per pod.
struct Figure {
    what: &'static str,
    per_pod: f64,
    at_most: f64,
}

fn series(lab: &Lab) -> Series {
    Series {
        image: lab.image.clone(),
        network: NamespaceMode::Pod,
        logs: lab.machine.logs(),
        pause: std::time::Duration::ZERO,
    }
}

/// A short run of `bench --vanish`.
#[tokio::test(flavor = "multi_thread")]
async fn lost_sessions_leave_nothing_in_the_server_and_the_monitor() -> Result<()> {
    needs!("docker-registry", "busybox");
    let lab = Lab::start().await?;
    let target = Target { name: "crisp".into(), socket: lab.machine.socket(), metrics: None };
    vanish::vanish(&target, &series(&lab), LOST).await?;
    lab.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn budgets_hold() -> Result<()> {
    needs!("docker-registry", "busybox");
    let mut lab = Lab::start().await?;
    let series = series(&lab);
    // The first pod makes the shared parts: the bridge, thread pools, caches.
    let (first, _) = series.up(&mut lab.client, "first", IDLE).await?;
    series.down(&mut lab.client, first).await?;
    let before = Held::now(&lab)?;
    let mut pods = Vec::new();
    for number in 0..PODS {
        pods.push(series.up(&mut lab.client, &format!("pod-{number}"), IDLE).await?.0);
    }
    let held = Held::now(&lab)?;
    monitors_are_small(&lab, &pods)?;
    let per_pod = |held: usize, before: usize| (held as f64 - before as f64) / PODS as f64;
    for Figure { what, per_pod, at_most } in [
        Figure { what: "files and folders", per_pod: per_pod(held.files, before.files), at_most: 40.0 },
        Figure {
            what: "descriptors of the server",
            per_pod: per_pod(held.descriptors, before.descriptors),
            at_most: 12.0,
        },
        Figure {
            what: "threads of the server",
            per_pod: per_pod(held.threads, before.threads),
            at_most: 0.5,
        },
        Figure { what: "mounts of the host", per_pod: per_pod(held.mounts, before.mounts), at_most: 0.0 },
    ] {
        println!("{what}: {per_pod} per pod");
        assert!(per_pod <= at_most, "{what}: {per_pod} per pod, {at_most} are allowed");
    }
    for up in pods {
        series.down(&mut lab.client, up).await?;
    }
    nothing_is_kept(&lab, &before).await?;
    lab.close().await
}

/// A monitor is one process with one thread per pod, and uses little memory.
fn monitors_are_small(lab: &Lab, pods: &[Up]) -> Result<()> {
    let mut sizes = Vec::new();
    for up in pods {
        let monitors = lab.machine.monitors(&up.pod);
        let &[monitor] = &monitors[..] else {
            return Err(format!("pod {} has the monitors {monitors:?}", up.pod).into());
        };
        let threads = std::fs::read_dir(format!("/proc/{monitor}/task"))?.count();
        assert_eq!(threads, 1, "threads of monitor {monitor}");
        sizes.push(memory::pss(monitor)?);
    }
    let mean = sizes.iter().sum::<f64>() / sizes.len() as f64;
    println!("monitors: {mean} kB");
    // The pages of the program are shared: with ten pods each monitor has a tenth of them, with fifty a
    // fiftieth.
    assert!(mean < 230.0, "a monitor's mean PSS is {mean} kB, 230 are allowed: {sizes:?}");
    Ok(())
}

/// Some resources are returned after the response, but all are returned.
async fn nothing_is_kept(lab: &Lab, before: &Held) -> Result<()> {
    let mut after = Held::now(lab)?;
    for _ in 0..100 {
        if after.files <= before.files && after.descriptors <= before.descriptors {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        after = Held::now(lab)?;
    }
    assert!(after.files <= before.files, "files: {} before, {} after", before.files, after.files);
    assert!(after.descriptors <= before.descriptors, "descriptors: {before:?} before, {after:?} after");
    // The server returns memory twice a minute, mostly pages of its program that no other process maps.
    let mut server = memory::of_server(&lab.machine.socket());
    for _ in 0..90 {
        if server < 20_000.0 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        server = memory::of_server(&lab.machine.socket());
    }
    println!("server: {server} kB");
    assert!(server < 20_000.0, "the server's PSS is {server} kB, 20,000 are allowed");
    Ok(())
}

#[derive(Debug)]
struct Held {
    /// Files in the server's own folders.
    files: usize,
    descriptors: usize,
    threads: usize,
    mounts: usize,
}

impl Held {
    fn now(lab: &Lab) -> Result<Self> {
        let process = PathBuf::from(format!("/proc/{}", lab.machine.server_pid()));
        let mounts = std::fs::read_to_string(process.join("mountinfo"))?;
        let folder = lab.machine.folder().display().to_string();
        Ok(Self {
            files: count(&lab.machine.root()) + count(&lab.machine.state()),
            descriptors: std::fs::read_dir(process.join("fd"))?.count(),
            threads: std::fs::read_dir(process.join("task"))?.count(),
            mounts: mounts.lines().filter(|line| line.contains(&folder)).count(),
        })
    }
}

/// Counts the entries below a folder that may change meanwhile; about one inode each.
fn count(folder: &Path) -> usize {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| 1 + if entry.path().is_symlink() { 0 } else { count(&entry.path()) }).sum()
}
