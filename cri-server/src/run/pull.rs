//! The pod's images: missing ones, and those with the policy Always, are pulled at the same time.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use anyhow::{Context as _, bail};
use crisp_image_service::pull::{LayerProgress, PullStage};
use crisp_image_service::{ImageService, PullProgress, PullRequest};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::manifest::{Pod, PullPolicy};
use crate::progress::{Bars, LayerView, View};
use crate::table::{short, size};

/// Pulls every image of the pod. Returns the ids by the names in the manifest.
///
/// # Errors
/// An image that cannot be pulled, or is not there and must not be pulled.
pub async fn all(images: &ImageService, pod: &Pod) -> anyhow::Result<BTreeMap<String, String>> {
    let bars = Arc::new(Mutex::new(Bars::new()));
    let mut tasks = JoinSet::new();
    for (image, policy) in wanted(pod) {
        let (images, bars) = (images.clone(), Arc::clone(&bars));
        tasks.spawn(async move {
            let id = one(&images, &image, policy, &bars).await;
            (image, id)
        });
    }
    let mut ids = BTreeMap::new();
    while let Some(done) = tasks.join_next().await {
        let (image, id) = done?;
        ids.insert(image, id?);
    }
    Ok(ids)
}

/// Each image once, with the most demanding policy.
fn wanted(pod: &Pod) -> BTreeMap<String, PullPolicy> {
    let mut wanted = BTreeMap::new();
    for container in pod.init_containers.iter().chain(&pod.containers) {
        let policy = wanted.entry(container.image.clone()).or_insert(container.pull);
        if container.pull == PullPolicy::Always {
            *policy = PullPolicy::Always;
        }
    }
    wanted
}

async fn one(
    images: &ImageService,
    image: &str,
    policy: PullPolicy,
    bars: &Mutex<Bars>,
) -> anyhow::Result<String> {
    match (policy, images.find(image)) {
        (PullPolicy::Never | PullPolicy::IfNotPresent, Ok(there)) => return Ok(there.id.to_string()),
        (PullPolicy::Never, Err(error)) => {
            bail!("image {image} is not here, and imagePullPolicy is Never: {error}")
        }
        (PullPolicy::Always, _) | (PullPolicy::IfNotPresent, Err(_)) => {}
    }
    let started = Instant::now();
    let request = PullRequest { reference: image.to_owned(), auth: None };
    let first = PullProgress { reference: image.to_owned(), stage: PullStage::Request, layers: Vec::new() };
    let (progress, mut changes) = watch::channel(first);
    let draw = async {
        while changes.changed().await.is_ok() {
            let view = view(image, &changes.borrow_and_update());
            bars.lock().unwrap_or_else(PoisonError::into_inner).update(view);
        }
        std::future::pending::<()>().await;
    };
    let pulled = tokio::select! {
        pulled = images.pull(&request, Some(&progress)) => pulled,
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
    bars.lock().unwrap_or_else(PoisonError::into_inner).finish(image, &line);
    Ok(pulled.context("cannot get an image")?.to_string())
}

/// What the bars show of a pull.
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
