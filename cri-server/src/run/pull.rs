//! Pulls images of containers: missing ones, and those with the policy Always, all at the same time. It
//! serves a whole pod before its start, and one container before a restart, when its image may be gone.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use anyhow::{Context as _, bail};
use crisp_image_service::pull::{LayerProgress, PullStage};
use crisp_image_service::{ImageService, PullProgress, PullRequest};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::credentials;
use super::manifest::{Container, Manifests, Objects, Pod, PullPolicy, VolumeSource};
use super::report::Report;
use super::run_as_non_root;
use crate::progress::{Bars, LayerView, View};
use crate::table::{short, size};

/// The purpose of the pulls, and the display of their progress.
pub struct Pulls<'a> {
    pub pod: &'a Pod,
    pub containers: &'a [&'a Container],
    pub objects: &'a Objects,
    pub report: &'a Report,
    pub bars: Option<&'a Arc<Mutex<Bars>>>,
}

/// Pulls every image of the containers. Returns the ids by the names in the manifest.
///
/// # Errors
/// An image cannot be pulled, or is missing and must not be pulled, or its user is refused.
pub async fn all(images: &ImageService, pulls: &Pulls<'_>) -> anyhow::Result<BTreeMap<String, String>> {
    let mut tasks = JoinSet::new();
    for (image, policy) in wanted(pulls) {
        let (images, bars) = (images.clone(), pulls.bars.cloned());
        let report = pulls.report.clone();
        let of_pod = credentials::find(pulls.pod, pulls.objects, pulls.report, &image)?;
        // The image of a `crisp run IMAGE`; images of manifests and volumes may be in any registry.
        let is_named = matches!(report, Report::Failures)
            && pulls.containers.iter().any(|container| container.image == image);
        let pod = Some(format!("{}/{}", pulls.pod.namespace, pulls.pod.name));
        tasks.spawn(async move {
            let auth = match of_pod {
                None if policy != PullPolicy::Never => credentials::of_user(&image, is_named, &report).await,
                of_pod => of_pod,
            };
            let request = PullRequest { reference: image, auth, pod };
            let id = one(&images, &request, policy, bars.as_deref(), &report).await;
            (request.reference, id)
        });
    }
    let mut ids = BTreeMap::new();
    while let Some(done) = tasks.join_next().await {
        let (image, id) = done?;
        ids.insert(image, id?);
    }
    for container in pulls.containers {
        run_as_non_root::check(images, &ids, pulls.pod, container).await?;
    }
    Ok(ids)
}

/// Pulls the image of the only container. Returns the ports that it exposes, as `80/tcp`.
///
/// # Errors
/// The image cannot be pulled.
pub async fn exposed_ports(images: &ImageService, manifests: &Manifests) -> anyhow::Result<Vec<String>> {
    let mut ports = Vec::new();
    for document in &manifests.pods {
        let (report, containers) = (Report::Failures, document.pod.all_containers().collect::<Vec<_>>());
        let pulls = Pulls {
            pod: &document.pod,
            containers: &containers,
            objects: &manifests.objects,
            report: &report,
            bars: None,
        };
        let ids = all(images, &pulls).await?;
        // Images of volumes do not count: their ports are not the container's.
        for id in containers.iter().filter_map(|container| ids.get(&container.image)) {
            let image = images.find(id)?;
            let config = image.config.config().as_ref();
            ports.extend(config.and_then(|config| config.exposed_ports().clone()).unwrap_or_default());
        }
    }
    Ok(ports)
}

/// Each image once, with the strictest policy.
fn wanted(pulls: &Pulls<'_>) -> BTreeMap<String, PullPolicy> {
    let mounts = |name: &String| {
        pulls.containers.iter().flat_map(|container| &container.mounts).any(|mount| mount.volume == *name)
    };
    let of_volumes = pulls.pod.volumes.iter().filter_map(|volume| match &volume.source {
        VolumeSource::Image { reference, pull } if mounts(&volume.name) => Some((reference, *pull)),
        _ => None,
    });
    let of_containers = pulls.containers.iter().map(|container| (&container.image, container.pull));
    let mut wanted = BTreeMap::new();
    for (image, pull) in of_containers.chain(of_volumes) {
        let policy = wanted.entry(image.clone()).or_insert(pull);
        if pull == PullPolicy::Always {
            *policy = PullPolicy::Always;
        }
    }
    wanted
}

async fn one(
    images: &ImageService,
    request: &PullRequest,
    policy: PullPolicy,
    bars: Option<&Mutex<Bars>>,
    report: &Report,
) -> anyhow::Result<String> {
    let image = request.reference.as_str();
    match (policy, images.find(image)) {
        (PullPolicy::Never | PullPolicy::IfNotPresent, Ok(there)) => return Ok(there.id.to_string()),
        (PullPolicy::Never, Err(error)) => {
            bail!("image {image} is not here, and imagePullPolicy is Never: {error}")
        }
        (PullPolicy::Always, _) | (PullPolicy::IfNotPresent, Err(_)) => {}
    }
    let started = Instant::now();
    let first = PullProgress { reference: image.to_owned(), stage: PullStage::Request, layers: Vec::new() };
    let (progress, mut changes) = watch::channel(first);
    let draw = async {
        while changes.changed().await.is_ok() {
            let view = view(image, &changes.borrow_and_update());
            if let Some(bars) = bars {
                bars.lock().unwrap_or_else(PoisonError::into_inner).update(view);
            }
        }
        std::future::pending::<()>().await;
    };
    let pulled = tokio::select! {
        pulled = images.pull(request, Some(&progress)) => pulled,
        () = draw => bail!("the progress of a pull has no end"),
    };
    let line = match &pulled {
        Ok(id) => {
            let size = images.find(id.as_str()).map_or(0, |i| i.size);
            let seconds = started.elapsed().as_secs_f64();
            format!("{image}: {} {} in {seconds:.1}s", short(&id.to_string()), self::size(size))
        }
        Err(_) => format!("{image}: failed"),
    };
    match bars {
        Some(bars) => bars.lock().unwrap_or_else(PoisonError::into_inner).finish(image, &line),
        None => report.routine(line),
    }
    Ok(pulled.context("cannot get an image")?.to_string())
}

/// The progress of a pull in the form of the bars.
pub fn view(image: &str, progress: &PullProgress) -> View {
    let layer = |layer: &LayerProgress| LayerView {
        digest: layer.digest.to_string(),
        total: layer.total,
        received: layer.received,
        state: layer.state,
    };
    View {
        image: image.to_owned(),
        stage: progress.stage.to_string(),
        layers: progress.layers.iter().map(layer).collect(),
    }
}
