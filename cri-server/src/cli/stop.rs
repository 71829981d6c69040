//! `crisp stop`: stops containers or whole pods.

use std::process::ExitCode;

use anyhow::bail;
use crisp_proto::runtime::v1::{PodSandbox, StopContainerRequest, StopPodSandboxRequest};
use tokio::task::JoinSet;

use super::Client;
use super::client::refused;
use super::each::each;
use super::names::{Names, Target};
use super::standalone;
use crate::run::image::{OF_IMAGE, STOP_TIMEOUT};

/// As docker's, in seconds.
pub const TIMEOUT: u32 = 10;

/// Stop containers or pods
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  crisp stop web
  crisp stop -t 0 web db

A container of `crisp run -d IMAGE` stays stopped, whatever its --restart policy, until `crisp start`; --restart always
starts it also when the server starts. Until `crisp rm` it keeps its files, its address and its published ports.")]
pub struct Stop {
    /// Seconds between the stop signal and the kill [default: --stop-timeout of the container's run, else 10]
    #[arg(long, short, visible_alias = "time", value_name = "SECONDS")]
    timeout: Option<u32>,
    /// Containers or pods, as ids, beginnings of ids or names; pod/NAME is always a pod
    #[arg(required = true)]
    names: Vec<String>,
}

impl Stop {
    pub async fn run(self, mut client: Client) -> anyhow::Result<ExitCode> {
        let known = Names::load(&mut client).await?;
        Ok(each(&self.names, async |name| self.stop(&mut client, &known, name).await).await)
    }

    async fn stop(&self, client: &mut Client, known: &Names, name: &str) -> anyhow::Result<()> {
        if let Some(pod) = standalone::by_name(client, known, name).await? {
            return standalone::stop(client, &pod, self.timeout).await;
        }
        match known.either(name)? {
            Target::Container(c) => match known.image_pod(c) {
                Some(pod) => self.stop_pod(client, known, pod).await,
                None => stop_container(client, &c.id, self.timeout.unwrap_or(TIMEOUT)).await,
            },
            Target::Pod(pod) => self.stop_pod(client, known, pod).await,
        }
    }

    async fn stop_pod(&self, client: &mut Client, known: &Names, pod: &PodSandbox) -> anyhow::Result<()> {
        if pod.annotations.get(OF_IMAGE).is_some_and(|policy| policy != "Never") {
            bail!(
                "its `crisp run` in the foreground would start it again by its --restart policy: end that command"
            );
        }
        let of_run = pod.annotations.get(STOP_TIMEOUT).and_then(|seconds| seconds.parse().ok());
        let timeout = self.timeout.or(of_run).unwrap_or(TIMEOUT);
        // Stopping a pod kills its containers at once, so they are stopped first, all at the same time: a
        // `crisp run` would start containers again that end long before their pod.
        let mut stops = JoinSet::new();
        for container in known.containers.iter().filter(|c| c.pod_sandbox_id == pod.id) {
            let (mut client, id, seconds) = (client.clone(), container.id.clone(), timeout);
            stops.spawn(async move { stop_container(&mut client, &id, seconds).await });
        }
        // A container that cannot be stopped ends with its pod.
        stops.join_all().await;
        let request = StopPodSandboxRequest { pod_sandbox_id: pod.id.clone() };
        client.runtime.stop_pod_sandbox(request).await.map_err(refused)?;
        Ok(())
    }
}

/// Stops a container; `seconds` are between the stop signal and the kill.
pub async fn stop_container(client: &mut Client, id: &str, seconds: u32) -> anyhow::Result<()> {
    let request = StopContainerRequest { container_id: id.to_owned(), timeout: seconds.into() };
    client.runtime.stop_container(request).await.map_err(refused)?;
    Ok(())
}
