//! `crisp restart`: stops and starts containers.

use std::process::ExitCode;

use anyhow::bail;
use crisp_proto::runtime::v1::{Container, ContainerState};

use super::Client;
use super::each::each;
use super::names::{Names, Target};
use super::standalone;
use super::start::start;
use super::stop::{TIMEOUT, stop_container};
use super::targets::is_supervised;
use crate::print;

/// Stop containers and start them again; they keep their files
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  crisp restart web
  crisp restart -t 0 shop/web db

A container of a kubelet or of a manifest is stopped; its supervisor starts a new one where its restartPolicy says so.")]
pub struct Restart {
    /// Seconds between the stop signal and the kill [default: --stop-timeout of the container's run, else 10]
    #[arg(long, short, visible_alias = "time", value_name = "SECONDS")]
    timeout: Option<u32>,
    /// Containers, as ids, beginnings of ids, NAME or POD/NAME
    #[arg(required = true)]
    names: Vec<String>,
}

impl Restart {
    pub async fn run(self, mut client: Client) -> anyhow::Result<ExitCode> {
        let known = Names::load(&mut client).await?;
        Ok(each(&self.names, async |name| self.restart_name(&mut client, &known, name).await).await)
    }

    async fn restart_name(&self, client: &mut Client, known: &Names, name: &str) -> anyhow::Result<()> {
        if let Some(pod) = standalone::by_name(client, known, name).await? {
            return standalone::restart(client, &pod, self.timeout).await;
        }
        match known.either(name)? {
            Target::Container(container) if known.image_pod(container).is_some() => {
                bail!("it is of a `crisp run` in the foreground: end that command, and run it again")
            }
            Target::Container(container) => self.restart(client, container).await,
            Target::Pod(_) => bail!("it is a pod: restart its containers"),
        }
    }

    async fn restart(&self, client: &mut Client, container: &Container) -> anyhow::Result<()> {
        stop_container(client, &container.id, self.timeout.unwrap_or(TIMEOUT)).await?;
        if is_supervised(container) {
            print::warning(format_args!(
                "crisp: {}: stopped; its supervisor starts it where its restartPolicy says so",
                container.id
            ));
            return Ok(());
        }
        let was_started = container.state() != ContainerState::ContainerCreated;
        let state =
            if was_started { ContainerState::ContainerExited } else { ContainerState::ContainerCreated };
        start(client, &Container { state: state.into(), ..container.clone() }).await
    }
}
