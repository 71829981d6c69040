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
use super::{Client, standalone, wait};

/// Start containers that were created, were stopped or have ended; they keep their files
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  crisp start web
  crisp start --attach job     # prints its output; the exit code is the container's

One of `crisp run -d IMAGE` keeps its files after `crisp stop`; when it has ended by itself, or the machine was restarted,
it is made anew, with its volumes. A container of a kubelet or of a manifest is started by its supervisor, as its
restartPolicy says. The pod of any other container has to be ready: one that was stopped has no network any more.")]
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
            return start_attached(&mut client, known, name).await;
        }
        Ok(each(&self.names, async |name| start_name(&mut client, &known, name).await).await)
    }
}

async fn start_attached(client: &mut Client, known: Names, name: &str) -> anyhow::Result<ExitCode> {
    let since = clock::now();
    let mut attached = None;
    let id = match standalone::by_name(client, &known, name).await? {
        Some(pod) => match standalone::start_attached(client, &pod).await? {
            Some(started) => attached.insert(started).container_id.clone(),
            // It may be a new one.
            None => Names::load(client).await?.container(&pod.name)?.id.clone(),
        },
        None => {
            let container = find(&known, name)?;
            // Checked before the start: without a log the container would run unseen.
            logs::log_path(client, &container.id).await?;
            start(client, container).await?;
            container.id.clone()
        }
    };
    logs::print_to_end(client, &id, Logs::since(since)).await.context("its output")?;
    let code = wait::exit_code(client, &id).await?;
    drop(attached);
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(255)))
}

async fn start_name(client: &mut Client, known: &Names, name: &str) -> anyhow::Result<()> {
    match standalone::by_name(client, known, name).await? {
        Some(pod) => standalone::start(client, &pod).await,
        None => start(client, find(known, name)?).await,
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
