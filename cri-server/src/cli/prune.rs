//! `crisp image prune`, `crisp container prune`, `crisp system prune` and `crisp system df`: unused objects.

use std::collections::{BTreeMap, HashSet};
use std::io::{self, BufRead as _, IsTerminal as _, Write as _};
use std::process::ExitCode;

use anyhow::bail;
use crisp_proto::runtime::v1::{
    Container, ContainerState, Image, ImageFsInfoRequest, ImageSpec, ListContainerStatsRequest,
    ListImagesRequest, PodSandboxState, RemoveContainerRequest, RemoveImageRequest, RemovePodSandboxRequest,
};

use super::Client;
use super::client::refused;
use super::filter::Filters;
use super::names::Names;
use super::ps::image_name;
use super::targets::is_supervised;
use super::{rm, standalone, volume};
use crate::print;
use crate::table::{Table, size};
use crate::time;

/// Show and free the disk space of images, containers and volumes
#[derive(Debug, clap::Args)]
pub struct SystemCommand {
    #[command(subcommand)]
    command: OfSystem,
}

#[derive(Debug, clap::Subcommand)]
enum OfSystem {
    /// Show the number and size of objects of each kind, and how much of it is unused
    Df,
    /// Remove containers that have ended, pods without containers that have ended, and images without a tag
    Prune(PruneSystem),
}

/// Remove images without a tag; with --all every image that no container uses
#[derive(Debug, clap::Args)]
pub struct PruneImages {
    /// Also remove images with tags
    #[arg(long, short)]
    all: bool,
    #[command(flatten)]
    confirmation: Confirmation,
}

/// Remove containers that have ended or were stopped
///
/// Those of a kubelet, of manifests and of a `crisp run` in the foreground are left to their supervisor.
#[derive(Debug, clap::Args)]
pub struct PruneContainers {
    /// Only objects made before a time, `until=24h`, or with a label, `label=KEY`
    #[arg(long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
    #[command(flatten)]
    confirmation: Confirmation,
}

#[derive(Debug, clap::Args)]
struct PruneSystem {
    /// Also remove images with tags
    #[arg(long, short)]
    all: bool,
    /// Also remove volumes that no container uses
    #[arg(long)]
    volumes: bool,
    #[command(flatten)]
    confirmation: Confirmation,
}

/// The question before a removal.
#[derive(Debug, clap::Args)]
pub struct Confirmation {
    /// Do not ask for confirmation
    #[arg(long, short)]
    force: bool,
}

impl PruneImages {
    pub async fn run(self, mut client: Client) -> anyhow::Result<ExitCode> {
        let Self { all, confirmation } = self;
        confirmation.confirm(if all {
            "all images that no container has"
        } else {
            "all images without a tag"
        })?;
        let before = used(&mut client).await?;
        images(&mut client, all).await?;
        report(&mut client, before).await
    }
}

impl PruneContainers {
    pub async fn run(self, mut client: Client) -> anyhow::Result<ExitCode> {
        let filters = Filters::parse(&self.filter, &["until", "label"])?;
        self.confirmation.confirm("all containers that have ended or were stopped")?;
        containers(&mut client, &filters).await?;
        Ok(ExitCode::SUCCESS)
    }
}

impl SystemCommand {
    pub async fn run(self, mut client: Client) -> anyhow::Result<ExitCode> {
        let prune = match self.command {
            OfSystem::Df => return df(&mut client).await,
            OfSystem::Prune(prune) => prune,
        };
        let volumes = if prune.volumes { ", volumes that no container has" } else { "" };
        prune.confirmation.confirm(&format!(
            "containers and pods that have ended{volumes}, and images that nothing uses"
        ))?;
        let before = used(&mut client).await?;
        containers(&mut client, &Filters::default()).await?;
        pods(&mut client).await?;
        let code = if prune.volumes { unused_volumes(&mut client).await } else { ExitCode::SUCCESS };
        images(&mut client, prune.all).await?;
        report(&mut client, before).await?;
        Ok(code)
    }
}

/// Removes the unused volumes. When their users are not known, the images are removed all the same.
async fn unused_volumes(client: &mut Client) -> ExitCode {
    match volume::prune(client).await {
        Ok(pruned) => pruned.report(),
        Err(error) => {
            print::warning(format_args!("crisp: no volume is removed: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

impl Confirmation {
    /// Asks on a terminal; anywhere else `--force` is required.
    ///
    /// # Errors
    /// The answer is no.
    pub fn confirm(&self, what: &str) -> anyhow::Result<()> {
        if self.force {
            return Ok(());
        }
        if !io::stdin().is_terminal() {
            bail!("this removes {what}: say --force");
        }
        let mut out = io::stdout();
        write!(out, "This removes {what}. Go on? [y/N] ").and_then(|()| out.flush())?;
        let mut answer = String::new();
        io::stdin().lock().read_line(&mut answer)?;
        if !matches!(answer.trim(), "y" | "Y" | "yes") {
            bail!("nothing was removed");
        }
        Ok(())
    }
}

/// Containers that have ended and are not supervised, and those of `crisp run -d IMAGE` that do not run.
async fn containers(client: &mut Client, filters: &Filters) -> anyhow::Result<()> {
    let until = filters.values("until").map(|text| time::moment("--filter until", text));
    let until = until.collect::<anyhow::Result<Vec<i64>>>()?;
    let is_meant = |c: &Container, labels: &BTreeMap<String, String>| {
        until.iter().all(|until| c.created_at <= *until)
            && filters.labels(|key| labels.get(key).or_else(|| c.labels.get(key)))
    };
    let names = Names::load(client).await?;
    let resting = standalone::resting(client).await?;
    for container in &names.containers {
        let pod = names.pods.iter().find(|pod| pod.id == container.pod_sandbox_id);
        let of_run = pod.and_then(|pod| Some((pod, resting.iter().find(|of| standalone::is_same(of, pod))?)));
        let is_ended = container.state() == ContainerState::ContainerExited && !is_supervised(container);
        match of_run {
            Some((pod, of)) if is_meant(container, &pod.labels) => {
                // A client may have started it meanwhile.
                if !rm::take_down_at_rest(client, &of.uid).await? {
                    continue;
                }
            }
            None if is_ended && is_meant(container, &container.labels) => {
                let request = RemoveContainerRequest { container_id: container.id.clone() };
                client.runtime.remove_container(request).await.map_err(refused)?;
            }
            _ => continue,
        }
        print::best_effort(&container.id);
    }
    Ok(())
}

/// Pods that have ended and have no containers any more.
async fn pods(client: &mut Client) -> anyhow::Result<()> {
    let names = Names::load(client).await?;
    let is_left = |id: &str| names.containers.iter().any(|c| c.pod_sandbox_id == id);
    for pod in names.pods.iter().filter(|p| p.state() == PodSandboxState::SandboxNotready && !is_left(&p.id))
    {
        let request = RemovePodSandboxRequest { pod_sandbox_id: pod.id.clone() };
        client.runtime.remove_pod_sandbox(request).await.map_err(refused)?;
        print::best_effort(&pod.id);
    }
    Ok(())
}

/// Images that no container uses, except those that garbage collection must not remove.
async fn images(client: &mut Client, all: bool) -> anyhow::Result<()> {
    for image in unused(client).await?.into_iter().filter(|image| all || image.repo_tags.is_empty()) {
        let spec = Some(ImageSpec { image: image.id.clone(), ..ImageSpec::default() });
        client.images.remove_image(RemoveImageRequest { image: spec }).await.map_err(refused)?;
        print::best_effort(image.repo_tags.first().unwrap_or(&image.id));
    }
    Ok(())
}

async fn unused(client: &mut Client) -> anyhow::Result<Vec<Image>> {
    let images = client.images.list_images(ListImagesRequest::default()).await.map_err(refused)?;
    let used: HashSet<String> = image_users(&Names::load(client).await?).collect();
    let images = images.into_inner().images.into_iter();
    Ok(images.filter(|image| !image.pinned && !used.contains(&image.id)).collect())
}

/// Ids of the images that containers use.
fn image_users(names: &Names) -> impl Iterator<Item = String> {
    names.containers.iter().flat_map(|c| [c.image_id.clone(), c.image_ref.clone(), image_name(c)])
}

/// Bytes of all images.
async fn used(client: &mut Client) -> anyhow::Result<u64> {
    let info = client.images.image_fs_info(ImageFsInfoRequest {}).await.map_err(refused)?.into_inner();
    Ok(info.image_filesystems.iter().filter_map(|fs| fs.used_bytes.as_ref()).map(|bytes| bytes.value).sum())
}

async fn report(client: &mut Client, before: u64) -> anyhow::Result<ExitCode> {
    print::best_effort(format_args!(
        "Total reclaimed space: {}",
        size(before.saturating_sub(used(client).await?))
    ));
    Ok(ExitCode::SUCCESS)
}

async fn df(client: &mut Client) -> anyhow::Result<ExitCode> {
    let images = client.images.list_images(ListImagesRequest::default()).await.map_err(refused)?;
    let images = images.into_inner().images;
    let unused = unused(client).await?;
    let names = Names::load(client).await?;
    let running = |c: &&Container| c.state() == ContainerState::ContainerRunning;
    let stats = client.runtime.list_container_stats(ListContainerStatsRequest::default()).await;
    let stats = stats.map_err(refused)?.into_inner().stats;
    let written = |wanted: &dyn Fn(&str) -> bool| {
        let of = stats.iter().filter(|s| s.attributes.as_ref().is_some_and(|a| wanted(&a.id)));
        of.filter_map(|s| Some(s.writable_layer.as_ref()?.used_bytes.as_ref()?.value)).sum::<u64>()
    };
    let is_idle = |id: &str| names.containers.iter().any(|c| c.id == id && !running(&c));
    let volumes = volume::usage(client).await?;
    let mut table = Table::new(&["TYPE", "TOTAL", "ACTIVE", "SIZE", "RECLAIMABLE"]);
    let mut row = |kind: &str, total: usize, active: usize, bytes: u64, free: u64| {
        table.row(vec![kind.to_owned(), total.to_string(), active.to_string(), size(bytes), size(free)]);
    };
    let free: u64 = unused.iter().map(|image| image.size).sum();
    let bytes = used(client).await?;
    // A layer that two images share counts for both.
    row("Images", images.len(), images.len() - unused.len(), bytes, free.min(bytes));
    let active = names.containers.iter().filter(running).count();
    row("Containers", names.containers.len(), active, written(&|_| true), written(&is_idle));
    row("Local Volumes", volumes.total, volumes.active, volumes.bytes, volumes.reclaimable);
    table.write(&mut io::stdout().lock())?;
    Ok(ExitCode::SUCCESS)
}
