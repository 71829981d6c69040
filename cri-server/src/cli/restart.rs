//! `crisp restart`: stops and starts containers.

use std::process::ExitCode;

use anyhow::bail;
use crisp_proto::runtime::v1::{Container, ContainerState};

use super::Client;
use super::each::each;
use super::names::{Names, Target};
use super::start::start;
use super::stop::stop_container;
use super::targets::is_supervised;
use crate::print;

/// Stop containers and start them again; they keep their files
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  crisp restart web
  crisp restart -t 0 shop/web db

A container of a kubelet or of `crisp run` is stopped; these start a new one where its restartPolicy says so.")]
pub struct Restart {
    /// Seconds between the stop signal and the kill
    #[arg(long, short, visible_alias = "time", default_value_t = 10, value_name = "SECONDS")]
    timeout: u32,
    /// Containers, as ids, beginnings of ids, NAME or POD/NAME
    #[arg(required = true)]
    names: Vec<String>,
}

impl Restart {
    pub async fn run(self, mut client: Client) -> anyhow::Result<ExitCode> {
        let known = Names::load(&mut client).await?;
        Ok(each(&self.names, async |name| match known.either(name)? {
            Target::Container(container) if known.image_pod(container).is_some() => {
                bail!("it is of a `crisp run IMAGE`, which makes containers anew: `crisp rm -f` it, and run it again")
            }
            Target::Container(container) => self.restart(&mut client, container).await,
            Target::Pod(_) => bail!("it is a pod: restart its containers"),
        })
        .await)
    }

    async fn restart(&self, client: &mut Client, container: &Container) -> anyhow::Result<()> {
        stop_container(client, &container.id, self.timeout).await?;
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
