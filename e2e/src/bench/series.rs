//! Starts pods of one kind and takes them down, and measures how long each takes.

use std::time::{Duration, Instant};

use k8s_cri::v1::{
    ContainerConfig, LinuxContainerConfig, LinuxContainerResources, LinuxContainerSecurityContext,
    LinuxPodSandboxConfig, LinuxSandboxSecurityContext, NamespaceMode, NamespaceOption, PodSandboxConfig,
    PodSandboxMetadata, RemoveContainerRequest, RemovePodSandboxRequest, StopContainerRequest,
    StopPodSandboxRequest,
};

use crate::{Client, Result, request};

/// The program of the benchmark's containers, which does nothing.
pub const IDLE: &str = "exec sleep 3600";

/// The common settings of the pods of one series.
#[derive(Debug, Clone)]
pub struct Series {
    pub image: String,
    pub network: NamespaceMode,
    /// The folder of the logs.
    pub logs: std::path::PathBuf,
    /// The pause before each request.
    pub pause: Duration,
}

/// A running pod with one container.
#[derive(Debug)]
pub struct Up {
    pub pod: String,
    pub container: String,
}

/// Measures only requests, without the pauses between them.
#[derive(Debug)]
pub struct Stopwatch {
    pause: Duration,
    pub total: Duration,
}

impl Stopwatch {
    #[must_use]
    pub fn new(pause: Duration) -> Self {
        Self { pause, total: Duration::ZERO }
    }

    /// Pauses, then waits for `request` and adds its time.
    ///
    /// # Errors
    /// The runtime's error.
    pub async fn time<T, E>(&mut self, request: impl Future<Output = Result<T, E>>) -> Result<T, E> {
        if !self.pause.is_zero() {
            tokio::time::sleep(self.pause).await;
        }
        let start = Instant::now();
        let answer = request.await;
        self.total += start.elapsed();
        answer
    }
}

impl Series {
    fn namespaces(&self) -> NamespaceOption {
        request::namespaces(self.network, NamespaceMode::Container)
    }

    /// The configuration of the pod `name`.
    #[must_use]
    pub fn sandbox(&self, name: &str) -> PodSandboxConfig {
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

    /// A container configuration as from a kubelet: default security, limits on CPU and memory.
    #[must_use]
    pub fn container(&self, line: &str) -> ContainerConfig {
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
    /// The runtime's error.
    pub async fn up(&self, client: &mut Client, name: &str, line: &str) -> Result<(Up, Duration)> {
        let sandbox = self.sandbox(name);
        std::fs::create_dir_all(&sandbox.log_directory)?;
        let config = self.container(line);
        let mut watch = Stopwatch::new(self.pause);
        let pod = watch.time(client.run_pod(&sandbox)).await?;
        let container = watch.time(client.create(&pod, &config, &sandbox)).await?;
        watch.time(client.start(&container)).await?;
        Ok((Up { pod, container }, watch.total))
    }

    /// Stops and removes both.
    ///
    /// # Errors
    /// The runtime's error.
    pub async fn down(&self, client: &mut Client, up: Up) -> Result<Duration> {
        let (pod_sandbox_id, container_id) = (up.pod, up.container);
        let mut watch = Stopwatch::new(self.pause);
        let runtime = &mut client.runtime;
        let stop = StopContainerRequest { container_id: container_id.clone(), timeout: 0 };
        watch.time(runtime.stop_container(stop)).await?;
        watch.time(runtime.remove_container(RemoveContainerRequest { container_id })).await?;
        let stop = StopPodSandboxRequest { pod_sandbox_id: pod_sandbox_id.clone() };
        watch.time(runtime.stop_pod_sandbox(stop)).await?;
        watch.time(runtime.remove_pod_sandbox(RemovePodSandboxRequest { pod_sandbox_id })).await?;
        Ok(watch.total)
    }
}
