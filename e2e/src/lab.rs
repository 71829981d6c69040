//! A machine with a client and the pulled busybox image: most tests begin with it.

use k8s_cri::v1::{ContainerConfig, ContainerStatus, PodSandboxConfig};
use tonic::Status;

use crate::{Client, Image, Machine, Result, Setup, request};

/// A machine ready for containers.
pub struct Lab {
    pub machine: Machine,
    pub client: Client,
    /// Reference of the busybox image.
    pub image: String,
}

impl Lab {
    /// # Errors
    /// The error of the failed step.
    pub async fn start() -> Result<Self> {
        Self::start_with(Setup::default()).await
    }

    /// # Errors
    /// The error of the failed step.
    pub async fn start_with(setup: Setup) -> Result<Self> {
        let machine = Machine::start_with(setup).await?;
        let image = machine.registry().push("busybox", "1", &Image::busybox().build())?;
        let mut client = machine.client().await?;
        client.pull(&image).await?;
        Ok(Self { machine, client, image })
    }

    /// Runs a pod; returns its configuration and id.
    ///
    /// # Errors
    /// The server's error.
    pub async fn pod(&mut self, name: &str) -> Result<(PodSandboxConfig, String)> {
        let sandbox = request::pod(&self.machine, name);
        let id = self.client.run_pod(&sandbox).await?;
        Ok((sandbox, id))
    }

    /// Runs a container in a new pod called `name` until it ends; returns its status and log.
    ///
    /// # Errors
    /// The error of the failed step.
    pub async fn run(&mut self, name: &str, config: &ContainerConfig) -> Result<(ContainerStatus, String)> {
        let (sandbox, pod) = self.pod(name).await?;
        let id = self.client.launch(&pod, config, &sandbox).await?;
        let status = self.client.wait(&id).await?;
        let container = config.metadata.as_ref().map_or("main", |m| m.name.as_str());
        let log = self.machine.container_log(name, container)?;
        Ok((status, log))
    }

    /// Runs a shell line in a new pod until it ends; returns its output. It must succeed.
    ///
    /// # Errors
    /// The error of the failed step, or an exit code other than 0.
    pub async fn output(&mut self, name: &str, config: ContainerConfig) -> Result<String> {
        let (status, log) = self.run(name, &config).await?;
        if status.exit_code != 0 {
            return Err(format!("exit code {} ({}): {log}", status.exit_code, status.message).into());
        }
        Ok(log)
    }

    /// A container config for a shell line.
    #[must_use]
    pub fn shell(&self, line: &str) -> ContainerConfig {
        request::shell("main", &self.image, line)
    }

    /// Creates and starts a container; one of both must fail. Returns the error.
    ///
    /// # Errors
    /// When it does not fail, or the pod does.
    pub async fn refused(&mut self, name: &str, config: &ContainerConfig) -> Result<Status> {
        let (sandbox, pod) = self.pod(name).await?;
        match self.client.launch(&pod, config, &sandbox).await {
            Ok(id) => Err(format!("container {id} started").into()),
            Err(status) => Ok(status),
        }
    }

    /// Stops everything and looks for leaks.
    ///
    /// # Errors
    /// As [`Machine::close`].
    pub async fn close(self) -> Result<()> {
        self.machine.close().await
    }
}

/// Asserts that an error contains all of `words`.
///
/// # Panics
/// When a word is missing.
#[track_caller]
pub fn says(status: &Status, words: &[&str]) {
    for word in words {
        assert!(
            status.message().contains(word),
            "{:?} is missing in {:?}: {}",
            word,
            status.code(),
            status.message()
        );
    }
}
