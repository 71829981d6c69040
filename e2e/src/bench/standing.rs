//! Requests to a runtime while a number of pods run, and the resources that these pods use.

use std::path::Path;
use std::time::Duration;

use k8s_cri::v1::{ListContainerStatsRequest, ListContainersRequest, ListPodSandboxStatsRequest};

use super::series::{IDLE, Series, Stopwatch, Up};
use super::table::Row;
use super::{Effort, Target, cpu, disk, memory};
use crate::{Client, Result, http};

/// Measures ExecSync, lists, stats, scrapes, memory, and the inodes on the file systems of `folders`.
///
/// # Errors
/// A runtime's error.
pub async fn standing(
    target: &Target,
    series: &Series,
    effort: Effort,
    folders: &[&Path],
) -> Result<Vec<Row>> {
    let mut client = Client::connect(&target.socket).await?;
    let name = &target.name;
    let memory_before = memory::total(&memory::PER_POD);
    let (pods, mut rows) = stand(&mut client, series, effort, target, folders).await?;
    let per_pod = (memory::total(&memory::PER_POD) - memory_before) / effort.standing as f64;
    rows.push(Row::new(name, "PSS per pod, runtime's own processes", "kB", vec![per_pod]));
    rows.extend(measure_requests(&mut client, target, &pods, effort, series.pause).await?);
    rows.extend(scrapes(target, pods.len())?);
    let server = memory::of_server(&target.socket);
    rows.push(Row::new(name, "PSS of the server, pods standing", "kB", vec![server]));
    for up in pods {
        series.down(&mut client, up).await?;
    }
    Ok(rows)
}

/// Starts all pods, then all containers, and counts inodes in between.
async fn stand(
    client: &mut Client,
    series: &Series,
    effort: Effort,
    target: &Target,
    folders: &[&Path],
) -> Result<(Vec<Up>, Vec<Row>)> {
    let count = effort.standing;
    let sandboxes: Vec<_> = (0..count).map(|number| series.sandbox(&format!("stand-{number}"))).collect();
    // The folders that a kubelet would make are not counted.
    for sandbox in &sandboxes {
        std::fs::create_dir_all(&sandbox.log_directory)?;
    }
    let before = disk::inodes(folders)?;
    let mut pods = Vec::new();
    for sandbox in &sandboxes {
        pods.push(client.run_pod(sandbox).await?);
    }
    let with_pods = disk::inodes(folders)?;
    let mut ups = Vec::new();
    for (sandbox, pod) in sandboxes.iter().zip(pods) {
        let container = client.launch(&pod, &series.container(IDLE), sandbox).await?;
        ups.push(Up { pod, container });
    }
    let with_containers = disk::inodes(folders)?;
    let mut rows = Vec::new();
    if !folders.is_empty() {
        let per = |what, inodes: f64| Row::new(&target.name, what, "", vec![inodes / count as f64]);
        rows.push(per("inodes per pod", with_pods - before));
        rows.push(per("inodes per container, its log file included", with_containers - with_pods));
    }
    Ok((ups, rows))
}

const ROWS: [[&str; 2]; 4] = [
    ["ExecSync true, at once", "ExecSync true, apart"],
    ["ListContainers, pods standing, at once", "ListContainers, pods standing, apart"],
    ["ListContainerStats, pods standing, at once", "ListContainerStats, pods standing, apart"],
    ["ListPodSandboxStats, pods standing, at once", "ListPodSandboxStats, pods standing, apart"],
];

async fn measure_requests(
    client: &mut Client,
    target: &Target,
    pods: &[Up],
    effort: Effort,
    pause: Duration,
) -> Result<Vec<Row>> {
    let mut first = Vec::new();
    for up in pods {
        let mut watch = Stopwatch::new(Duration::ZERO);
        watch.time(client.exec(&up.container, &["/bin/true"])).await?;
        first.push(watch.total);
    }
    // Probes are repeated; the first one in a container makes things that the others use.
    let mut rows = vec![Row::times(&target.name, "ExecSync true, the first in a container", &first)];
    for (way, pause) in [Duration::ZERO, pause].into_iter().enumerate() {
        let mut times: [Vec<Duration>; 4] = std::array::from_fn(|_| Vec::new());
        for round in 0..effort.execs {
            let container = &pods[round % pods.len()].container;
            let mut watches: [Stopwatch; 4] = std::array::from_fn(|_| Stopwatch::new(pause));
            let [exec, list, stats, pod_stats] = &mut watches;
            exec.time(client.exec(container, &["/bin/true"])).await?;
            list.time(client.runtime.list_containers(ListContainersRequest::default())).await?;
            stats.time(client.runtime.list_container_stats(ListContainerStatsRequest::default())).await?;
            let request = ListPodSandboxStatsRequest::default();
            pod_stats.time(client.runtime.list_pod_sandbox_stats(request)).await?;
            times.iter_mut().zip(&watches).for_each(|(times, watch)| times.push(watch.total));
        }
        rows.extend(
            ROWS.iter().zip(&times).map(|(names, times)| Row::times(&target.name, names[way], times)),
        );
    }
    Ok(rows)
}

/// Enough for a mean of CPU time, which the kernel counts in units of ten milliseconds.
const SCRAPES: usize = 100;

/// The CPU time of the server for a scrape of the page of pods, each with one container.
fn scrapes(target: &Target, containers: usize) -> Result<Option<Row>> {
    let Some(host) = &target.metrics else { return Ok(None) };
    let server = memory::server_of(&target.socket).ok_or("no server behind the socket")?;
    let scrape = || -> Result<()> {
        let page = http::send(host, "GET", "/metrics/cadvisor", &[], &[])?;
        let page = String::from_utf8_lossy(&page.body).into_owned();
        let found = page.lines().filter(|line| line.starts_with("container_processes{")).count();
        if found == containers { Ok(()) } else { Err(format!("the page has {found} containers").into()) }
    };
    // The first one counts the writable layers, which are then fresh for some seconds.
    scrape()?;
    let before = cpu::of_tree(server)?;
    for _ in 0..SCRAPES {
        scrape()?;
    }
    let each = (cpu::of_tree(server)? - before) / SCRAPES as f64;
    let per_hundred = each * 100.0 / containers as f64;
    let what = "CPU of the server per scrape and 100 containers";
    Ok(Some(Row::new(&target.name, what, "ms", vec![per_hundred])))
}
