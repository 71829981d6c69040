//! The timed steps of a pod's life.

use std::time::{Duration, Instant};

use k8s_cri::v1::{
    ContainerConfig, LinuxContainerConfig, LinuxContainerResources, LinuxContainerSecurityContext,
    LinuxPodSandboxConfig, LinuxSandboxSecurityContext, ListContainerStatsRequest, ListContainersRequest,
    NamespaceMode, NamespaceOption, PodSandboxConfig, PodSandboxMetadata, RemoveContainerRequest,
    RemovePodSandboxRequest, StopContainerRequest, StopPodSandboxRequest,
};

use super::table::Row;
use super::{Effort, Target, memory};
use crate::{Client, Result, request};

/// What the pods of one series have in common.
#[derive(Debug, Clone)]
pub struct Series {
    pub image: String,
    pub network: NamespaceMode,
    /// Below this folder the logs go.
    pub logs: std::path::PathBuf,
}

/// A pod with one container, up.
#[derive(Debug)]
pub struct Up {
    pub pod: String,
    pub container: String,
}

impl Series {
    fn namespaces(&self) -> NamespaceOption {
        request::namespaces(self.network, NamespaceMode::Container)
    }

    fn sandbox(&self, name: &str) -> PodSandboxConfig {
        PodSandboxConfig {
            metadata: Some(PodSandboxMetadata {
                name: name.into(),
                uid: name.into(),
                namespace: "bench".into(),
                attempt: 0,
            }),
            log_directory: self.logs.join(name).display().to_string(),
            linux: Some(LinuxPodSandboxConfig {
                security_context: Some(LinuxSandboxSecurityContext {
                    namespace_options: Some(self.namespaces()),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    /// As a kubelet would ask: default security, limits on CPU and memory.
    fn container(&self, line: &str) -> ContainerConfig {
        let linux = LinuxContainerConfig {
            resources: Some(LinuxContainerResources {
                cpu_shares: 102,
                cpu_period: 100_000,
                cpu_quota: 100_000,
                memory_limit_in_bytes: 64 << 20,
                oom_score_adj: 900,
                ..Default::default()
            }),
            security_context: Some(LinuxContainerSecurityContext {
                namespace_options: Some(self.namespaces()),
                ..Default::default()
            }),
        };
        ContainerConfig { linux: Some(linux), ..request::shell("main", &self.image, line) }
    }

    /// Starts one pod with its container.
    ///
    /// # Errors
    /// The runtime's answer.
    pub async fn up(&self, client: &mut Client, name: &str, line: &str) -> Result<Up> {
        let sandbox = self.sandbox(name);
        std::fs::create_dir_all(&sandbox.log_directory)?;
        let pod = client.run_pod(&sandbox).await?;
        let container = client.launch(&pod, &self.container(line), &sandbox).await?;
        Ok(Up { pod, container })
    }

    /// Stops and removes both.
    ///
    /// # Errors
    /// The runtime's answer.
    pub async fn down(&self, client: &mut Client, up: Up) -> Result<()> {
        let (pod_sandbox_id, container_id) = (up.pod, up.container);
        let runtime = &mut client.runtime;
        runtime
            .stop_container(StopContainerRequest { container_id: container_id.clone(), timeout: 0 })
            .await?;
        runtime.remove_container(RemoveContainerRequest { container_id }).await?;
        runtime.stop_pod_sandbox(StopPodSandboxRequest { pod_sandbox_id: pod_sandbox_id.clone() }).await?;
        runtime.remove_pod_sandbox(RemovePodSandboxRequest { pod_sandbox_id }).await?;
        Ok(())
    }
}

const IDLE: &str = "exec sleep 3600";

/// Up and down, one at a time; the targets take turns.
///
/// # Errors
/// A runtime's answer.
pub async fn cycles(
    targets: &[Target],
    series: &Series,
    effort: Effort,
    names: [&'static str; 2],
) -> Result<Vec<Row>> {
    let mut clients = Vec::new();
    for target in targets {
        clients.push((target, Client::connect(&target.socket).await?, Vec::new(), Vec::new()));
    }
    for round in 0..=effort.cycles {
        for (_, client, ups, downs) in &mut clients {
            let start = Instant::now();
            let up = series.up(client, &format!("cycle-{round}"), IDLE).await?;
            let up_time = start.elapsed();
            let start = Instant::now();
            series.down(client, up).await?;
            // The first round warms up.
            if round > 0 {
                ups.push(up_time);
                downs.push(start.elapsed());
            }
        }
    }
    let row = |(target, _, ups, downs): &(&Target, Client, Vec<Duration>, Vec<Duration>)| {
        [Row::times(&target.name, names[0], ups), Row::times(&target.name, names[1], downs)]
    };
    Ok(clients.iter().flat_map(row).collect())
}

/// From RunPodSandbox to the first byte in the container's log.
///
/// # Errors
/// A runtime's answer, or no output within ten seconds.
pub async fn first_output(target: &Target, series: &Series, effort: Effort) -> Result<Row> {
    let mut client = Client::connect(&target.socket).await?;
    let mut times = Vec::new();
    for round in 0..effort.cycles {
        let name = format!("output-{}-{round}", target.name);
        let log = series.logs.join(&name).join("main.log");
        let start = Instant::now();
        let up = series.up(&mut client, &name, "echo up; exec sleep 3600").await?;
        while !std::fs::metadata(&log).is_ok_and(|m| m.len() > 0) {
            if start.elapsed() > Duration::from_secs(10) {
                return Err(format!("{}: no output after ten seconds", target.name).into());
            }
            tokio::time::sleep(Duration::from_micros(200)).await;
        }
        times.push(start.elapsed());
        series.down(&mut client, up).await?;
    }
    Ok(Row::times(&target.name, "first output in the log", &times))
}

/// Full cycles per second with a number of workers.
///
/// # Errors
/// A runtime's answer.
pub async fn throughput(
    target: &Target,
    series: &Series,
    total: usize,
    workers: usize,
    what: &'static str,
) -> Result<Row> {
    let start = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for worker in 0..workers {
        let (series, socket, share) = (series.clone(), target.socket.clone(), total / workers);
        tasks.spawn(async move {
            let mut client = Client::connect(&socket).await?;
            for round in 0..share {
                let up = series.up(&mut client, &format!("many-{worker}-{round}"), IDLE).await?;
                series.down(&mut client, up).await?;
            }
            Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
        });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    let done = total / workers * workers;
    Ok(Row::new(&target.name, what, "1/s", vec![done as f64 / start.elapsed().as_secs_f64()]))
}

/// ExecSync, lists, stats and memory while a number of pods stand.
///
/// # Errors
/// A runtime's answer.
pub async fn standing(target: &Target, series: &Series, effort: Effort) -> Result<Vec<Row>> {
    let mut client = Client::connect(&target.socket).await?;
    let name = &target.name;
    let before = memory::total(&memory::PER_POD);
    let mut pods = Vec::new();
    for number in 0..effort.standing {
        pods.push(series.up(&mut client, &format!("stand-{number}"), IDLE).await?);
    }
    let per_pod = (memory::total(&memory::PER_POD) - before) / effort.standing as f64;
    let (mut execs, mut lists, mut stats) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..effort.execs {
        let container = &pods[round % pods.len()].container;
        let start = Instant::now();
        client.exec(container, &["/bin/true"]).await?;
        execs.push(start.elapsed());
        let start = Instant::now();
        client.runtime.list_containers(ListContainersRequest::default()).await?;
        lists.push(start.elapsed());
        let start = Instant::now();
        client.runtime.list_container_stats(ListContainerStatsRequest::default()).await?;
        stats.push(start.elapsed());
    }
    let server = memory::server_of(&target.socket).and_then(|pid| memory::pss(pid).ok()).unwrap_or(f64::NAN);
    for up in pods {
        series.down(&mut client, up).await?;
    }
    Ok(vec![
        Row::times(name, "ExecSync true", &execs),
        Row::times(name, "ListContainers, pods standing", &lists),
        Row::times(name, "ListContainerStats, pods standing", &stats),
        Row::new(name, "PSS per pod, runtime's own processes", "kB", vec![per_pod]),
        Row::new(name, "PSS of the server, pods standing", "kB", vec![server]),
    ])
}
