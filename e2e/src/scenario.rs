//! The steps of most tests: pull, run, start, wait, read the log.

use std::time::{Duration, Instant};

use k8s_cri::v1::{
    ContainerConfig, ContainerState, ContainerStatus, ContainerStatusRequest, CreateContainerRequest,
    ExecSyncRequest, ExecSyncResponse, ImageSpec, PodSandboxConfig, PullImageRequest, RunPodSandboxRequest,
    StartContainerRequest,
};
use tonic::Status;

use crate::{Client, Machine, Result};

impl Client {
    /// Pulls an image; returns its id.
    ///
    /// # Errors
    /// The server's error.
    pub async fn pull(&mut self, reference: &str) -> Result<String, Status> {
        let image = Some(ImageSpec { image: reference.into(), ..Default::default() });
        let request = PullImageRequest { image, ..Default::default() };
        Ok(self.images.pull_image(request).await?.into_inner().image_ref)
    }

    /// Runs a pod sandbox; returns its id.
    ///
    /// # Errors
    /// The server's error.
    pub async fn run_pod(&mut self, config: &PodSandboxConfig) -> Result<String, Status> {
        let request = RunPodSandboxRequest { config: Some(config.clone()), runtime_handler: String::new() };
        Ok(self.runtime.run_pod_sandbox(request).await?.into_inner().pod_sandbox_id)
    }

    /// Creates a container; returns its id.
    ///
    /// # Errors
    /// The server's error.
    pub async fn create(
        &mut self,
        pod: &str,
        config: &ContainerConfig,
        sandbox: &PodSandboxConfig,
    ) -> Result<String, Status> {
        let request = CreateContainerRequest {
            pod_sandbox_id: pod.into(),
            config: Some(config.clone()),
            sandbox_config: Some(sandbox.clone()),
        };
        Ok(self.runtime.create_container(request).await?.into_inner().container_id)
    }

    /// Starts a created container.
    ///
    /// # Errors
    /// The server's error.
    pub async fn start(&mut self, container: &str) -> Result<(), Status> {
        self.runtime.start_container(StartContainerRequest { container_id: container.into() }).await?;
        Ok(())
    }

    /// Creates and starts a container; returns its id.
    ///
    /// # Errors
    /// The server's error in either step.
    pub async fn launch(
        &mut self,
        pod: &str,
        config: &ContainerConfig,
        sandbox: &PodSandboxConfig,
    ) -> Result<String, Status> {
        let id = self.create(pod, config, sandbox).await?;
        self.start(&id).await?;
        Ok(id)
    }

    /// The status of the container.
    ///
    /// # Errors
    /// The server's error, or a response without a status.
    pub async fn status(&mut self, container: &str) -> Result<ContainerStatus> {
        let request = ContainerStatusRequest { container_id: container.into(), verbose: false };
        self.runtime
            .container_status(request)
            .await?
            .into_inner()
            .status
            .ok_or_else(|| "no status in the answer".into())
    }

    /// Waits up to ten seconds until the container has ended.
    ///
    /// # Errors
    /// When it has not ended; with its state.
    pub async fn wait(&mut self, container: &str) -> Result<ContainerStatus> {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let status = self.status(container).await?;
            if status.state() == ContainerState::ContainerExited {
                return Ok(status);
            }
            if Instant::now() > deadline {
                return Err(format!("container still {:?} after ten seconds", status.state()).into());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Runs a command in the container.
    ///
    /// # Errors
    /// The server's error.
    pub async fn exec(&mut self, container: &str, command: &[&str]) -> Result<ExecSyncResponse, Status> {
        let cmd = command.iter().map(|&word| word.to_owned()).collect();
        let request = ExecSyncRequest { container_id: container.into(), cmd, timeout: 10 };
        Ok(self.runtime.exec_sync(request).await?.into_inner())
    }

    /// Runs a shell line, which must succeed, in a running container; returns its output.
    ///
    /// # Errors
    /// The server's error, or the exit code of the line with its output.
    pub async fn sh(&mut self, container: &str, line: &str) -> Result<String> {
        let answer = self.exec(container, &["sh", "-c", line]).await?;
        let text = String::from_utf8(answer.stdout.to_vec())?;
        if answer.exit_code != 0 {
            let errors = String::from_utf8_lossy(&answer.stderr).into_owned();
            return Err(format!("{line}: exit code {}: {text}{errors}", answer.exit_code).into());
        }
        Ok(text)
    }

    /// Waits up to half a minute until a shell line succeeds in a running container; returns its output.
    ///
    /// # Errors
    /// The last error of [`sh`](Self::sh).
    pub async fn until(&mut self, container: &str, line: &str) -> Result<String> {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let result = self.sh(container, line).await;
            if result.is_ok() || Instant::now() > deadline {
                return result;
            }
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
    }

    /// Runs one container with a shell line in a pod of its own until it ends; returns its status and the
    /// lines that it wrote to stdout and stderr.
    ///
    /// # Errors
    /// The error of the failed step.
    pub async fn run_to_end(
        &mut self,
        machine: &Machine,
        name: &str,
        image: &str,
        line: &str,
    ) -> Result<(ContainerStatus, String)> {
        let sandbox = crate::request::pod(machine, name);
        let pod = self.run_pod(&sandbox).await?;
        let id = self.launch(&pod, &crate::request::shell("main", image, line), &sandbox).await?;
        let status = self.wait(&id).await?;
        Ok((status, machine.container_log(name, "main")?))
    }
}

impl Machine {
    /// The content of a container's log, without times, streams and tags.
    ///
    /// # Errors
    /// When there is no such log, or a line is not in the CRI format.
    pub fn container_log(&self, pod: &str, container: &str) -> Result<String> {
        let text = std::fs::read_to_string(self.logs().join(pod).join(format!("{container}.log")))?;
        parse_log(&text)
    }
}

/// Joins the partial lines of a CRI log.
///
/// # Errors
/// When a line is not in the format; with the first such line.
pub fn parse_log(text: &str) -> Result<String> {
    let mut content = String::new();
    for line in text.lines() {
        let mut parts = line.splitn(4, ' ');
        match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(time), Some("stdout" | "stderr"), Some(tag @ ("P" | "F")), Some(rest))
                if time.contains('T') =>
            {
                content.push_str(rest);
                if tag == "F" {
                    content.push('\n');
                }
            }
            _ => return Err(format!("not a CRI log line: {line:?}").into()),
        }
    }
    Ok(content)
}
