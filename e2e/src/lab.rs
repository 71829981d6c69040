//! A machine with a client and the busybox image pulled: where most tests begin.

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
    /// Any step's.
    pub async fn start() -> Result<Self> {
        Self::start_with(Setup::default()).await
    }

    /// # Errors
    /// Any step's.
    pub async fn start_with(setup: Setup) -> Result<Self> {
        let machine = Machine::start_with(setup).await?;
        let image = machine.registry().push("busybox", "1", &Image::busybox().build())?;
        let mut client = machine.client().await?;
        client.pull(&image).await?;
        Ok(Self { machine, client, image })
    }

    /// A standing pod; its configuration and id.
    ///
    /// # Errors
    /// The server's answer.
    pub async fn pod(&mut self, name: &str) -> Result<(PodSandboxConfig, String)> {
        let sandbox = request::pod(&self.machine, name);
        let id = self.client.run_pod(&sandbox).await?;
        Ok((sandbox, id))
    }

    /// Runs a container until it ends in a new pod called `name`; its status and log.
    ///
    /// # Errors
    /// Any step's.
    pub async fn run(&mut self, name: &str, config: &ContainerConfig) -> Result<(ContainerStatus, String)> {
        let (sandbox, pod) = self.pod(name).await?;
        let id = self.client.launch(&pod, config, &sandbox).await?;
        let status = self.client.wait(&id).await?;
        let container = config.metadata.as_ref().map_or("main", |m| m.name.as_str());
        let log = self.machine.container_log(name, container)?;
        Ok((status, log))
    }

    /// A shell line run to its end in a new pod; what it printed. It must succeed.
    ///
    /// # Errors
    /// Any step's, or an exit code other than 0.
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

    /// Creates and starts a container that must fail at either; the answer.
    ///
    /// # Errors
    /// It did not fail, or the pod did.
    pub async fn refused(&mut self, name: &str, config: &ContainerConfig) -> Result<Status> {
        let (sandbox, pod) = self.pod(name).await?;
        match self.client.launch(&pod, config, &sandbox).await {
            Ok(id) => Err(format!("container {id} started").into()),
            Err(status) => Ok(status),
        }
    }

    /// Stops it all and looks for leaks.
    ///
    /// # Errors
    /// As [`Machine::close`].
    pub async fn close(self) -> Result<()> {
        self.machine.close().await
    }
}

/// Asserts that an answer says all of `words`.
///
/// # Panics
/// It does not.
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
