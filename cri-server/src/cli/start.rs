//! `crisp start`: starts containers that were created or have ended.

use std::process::ExitCode;

use anyhow::{Context as _, bail};
use crisp_operation::clock;
use crisp_proto::crisp::v1::ResetContainerRequest;
use crisp_proto::runtime::v1::{Container, ContainerState, StartContainerRequest};

use super::client::refused;
use super::each::each;
use super::logs::{self, Logs};
use super::names::{Names, Target};
use super::targets::is_supervised;
use super::{Client, wait};

/// Start containers that were created or have ended; they keep their files
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  crisp start web
  crisp start --attach job     # prints its output; the exit code is the container's

A container of a kubelet or of `crisp run` is started once more by these, as its restartPolicy says. The pod of
the container has to be ready: one that was stopped has no network any more.")]
pub struct Start {
    /// Print the container's output until it ends, and exit with its exit code
    #[arg(long, short)]
    attach: bool,
    /// Containers, as ids, beginnings of ids, NAME or POD/NAME
    #[arg(required = true)]
    names: Vec<String>,
}

impl Start {
    pub async fn run(self, mut client: Client) -> anyhow::Result<ExitCode> {
        let known = Names::load(&mut client).await?;
        if self.attach {
            let [name] = &self.names[..] else { bail!("--attach: expected one container") };
            let id = find(&known, name)?.id.clone();
            // Checked before the start: without a log the container would run unseen.
            logs::log_path(&mut client, &id).await?;
            let since = clock::now();
            start(&mut client, find(&known, name)?).await?;
            logs::print_to_end(&mut client, &id, Logs::since(since)).await.context("its output")?;
            let code = wait::exit_code(&mut client, &id).await?;
            return Ok(ExitCode::from(u8::try_from(code).unwrap_or(255)));
        }
        Ok(each(&self.names, async |name| start(&mut client, find(&known, name)?).await).await)
    }
}

fn find<'a>(known: &'a Names, name: &str) -> anyhow::Result<&'a Container> {
    match known.either(name)? {
        Target::Container(container) => Ok(container),
        Target::Pod(_) => {
            bail!("it is a pod, which runs from its creation to its stop: start its containers")
        }
    }
}

/// Starts a container that was created or has ended; success when it already runs.
pub async fn start(client: &mut Client, container: &Container) -> anyhow::Result<()> {
    let container_id = container.id.clone();
    match container.state() {
        ContainerState::ContainerRunning => return Ok(()),
        ContainerState::ContainerCreated => {}
        ContainerState::ContainerExited | ContainerState::ContainerUnknown => {
            if is_supervised(container) {
                bail!(
                    "a kubelet or `crisp run` started it, and starts a new container of this name where the pod's \
                     restartPolicy says so"
                );
            }
            let request = ResetContainerRequest { container_id: container_id.clone() };
            client.containers.reset(request).await.map_err(refused)?;
        }
    }
    client.runtime.start_container(StartContainerRequest { container_id }).await.map_err(refused)?;
    Ok(())
}
