//! `crisp stop`: containers, or whole pods.

use std::process::ExitCode;

use crisp_proto::runtime::v1::{StopContainerRequest, StopPodSandboxRequest};
use tokio::task::JoinSet;

use super::Client;
use super::client::refused;
use super::names::{Names, Target};

/// Stop containers or pods
#[derive(Debug, clap::Args)]
pub struct Stop {
    /// Seconds between the stop signal and the kill
    #[arg(long, short, visible_alias = "time", default_value_t = 10, value_name = "SECONDS")]
    timeout: u32,
    /// Containers or pods, as ids, beginnings of ids or names; pod/NAME is always a pod
    #[arg(required = true)]
    names: Vec<String>,
}

impl Stop {
    pub async fn run(self, mut client: Client) -> anyhow::Result<ExitCode> {
        let known = Names::load(&mut client).await?;
        let mut code = ExitCode::SUCCESS;
        for name in &self.names {
            match self.stop(&mut client, &known, name).await {
                Ok(()) => println!("{name}"),
                Err(error) => {
                    eprintln!("crisp: {name}: {error:#}");
                    code = ExitCode::FAILURE;
                }
            }
        }
        Ok(code)
    }

    async fn stop(&self, client: &mut Client, known: &Names, name: &str) -> anyhow::Result<()> {
        match known.either(name)? {
            Target::Container(c) => stop_container(client, &c.id, self.timeout).await,
            Target::Pod(pod) => {
                // Stopping a pod kills what runs in it: its containers get their time before that, all at once,
                // as a `crisp run` starts those again that end long before the pod does.
                let mut stops = JoinSet::new();
                for container in known.containers.iter().filter(|c| c.pod_sandbox_id == pod.id) {
                    let (mut client, id, seconds) = (client.clone(), container.id.clone(), self.timeout);
                    stops.spawn(async move { stop_container(&mut client, &id, seconds).await });
                }
                // One that cannot be stopped by itself ends with its pod.
                stops.join_all().await;
                let request = StopPodSandboxRequest { pod_sandbox_id: pod.id.clone() };
                client.runtime.stop_pod_sandbox(request).await.map_err(refused)?;
                Ok(())
            }
        }
    }
}

async fn stop_container(client: &mut Client, id: &str, seconds: u32) -> anyhow::Result<()> {
    let request = StopContainerRequest { container_id: id.to_owned(), timeout: seconds.into() };
    client.runtime.stop_container(request).await.map_err(refused)?;
    Ok(())
}
