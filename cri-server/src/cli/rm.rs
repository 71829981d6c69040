//! `crisp rm`: containers, or whole pods.

use std::process::ExitCode;

use anyhow::bail;
use crisp_proto::runtime::v1::{
    ContainerState, PodSandboxState, RemoveContainerRequest, RemovePodSandboxRequest, StopPodSandboxRequest,
};

use super::Client;
use super::client::refused;
use super::names::{Names, Target};

/// Remove containers or pods
#[derive(Debug, clap::Args)]
pub struct Rm {
    /// Also remove what runs: it is killed first
    #[arg(long, short)]
    force: bool,
    /// Containers or pods, as ids, beginnings of ids or names; pod/NAME is always a pod
    #[arg(required = true)]
    names: Vec<String>,
}

impl Rm {
    pub async fn run(self, mut client: Client) -> anyhow::Result<ExitCode> {
        let known = Names::load(&mut client).await?;
        let mut code = ExitCode::SUCCESS;
        for name in &self.names {
            match self.remove(&mut client, &known, name).await {
                Ok(()) => println!("{name}"),
                Err(error) => {
                    eprintln!("crisp: {name}: {error:#}");
                    code = ExitCode::FAILURE;
                }
            }
        }
        Ok(code)
    }

    async fn remove(&self, client: &mut Client, known: &Names, name: &str) -> anyhow::Result<()> {
        match known.either(name)? {
            Target::Container(c) => {
                if !self.force && c.state() == ContainerState::ContainerRunning {
                    bail!("it is running: stop it first, or use -f");
                }
                let request = RemoveContainerRequest { container_id: c.id.clone() };
                client.runtime.remove_container(request).await.map_err(refused)?;
            }
            Target::Pod(pod) => {
                if !self.force && pod.state() == PodSandboxState::SandboxReady {
                    bail!("the pod is ready: stop it first, or use -f");
                }
                let stop = StopPodSandboxRequest { pod_sandbox_id: pod.id.clone() };
                client.runtime.stop_pod_sandbox(stop).await.map_err(refused)?;
                let request = RemovePodSandboxRequest { pod_sandbox_id: pod.id.clone() };
                client.runtime.remove_pod_sandbox(request).await.map_err(refused)?;
            }
        }
        Ok(())
    }
}
