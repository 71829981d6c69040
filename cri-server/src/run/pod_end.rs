//! The end of a pod: it is stopped and kept for inspection, or removed with everything that belongs to it.

use std::path::Path;

use anyhow::Context as _;

use super::pod_remove;
use super::pod_run::{PodRun, stop_containers};
use super::pod_start::{Found, find};
use super::volumes;
use crate::server::Server;

/// Stops the pod if it exists. Its record, its logs and its volumes are kept.
///
/// # Errors
/// The runtime's error.
pub async fn stop(run: &PodRun) -> anyhow::Result<()> {
    match run.find() {
        Found::Nothing => Ok(()),
        Found::Ready(id) | Found::Silent(id) | Found::Ended(id) => pod_remove::stop(&run.server, &id).await,
    }
}

/// Stops and removes the pod, if it exists, and its folder.
///
/// # Errors
/// The runtime's or the file system's error; the call can be repeated.
pub async fn remove(run: &PodRun) -> anyhow::Result<()> {
    remove_of(&run.server, &run.uid, &run.folder).await
}

/// Like [`remove`], for a pod whose manifest is not known.
///
/// # Errors
/// As of [`remove`].
pub async fn remove_of(server: &Server, uid: &str, folder: &Path) -> anyhow::Result<()> {
    match find(server, uid, folder) {
        Found::Nothing => {}
        Found::Ready(id) | Found::Silent(id) | Found::Ended(id) => {
            pod_remove::stop_and_remove(server, &id).await?;
        }
    }
    let folder = folder.to_owned();
    // In a thread for blocking work: the folder may be large.
    let removed = tokio::task::spawn_blocking(move || volumes::remove_folder(&folder)).await?;
    removed.context("cannot remove a pod's folder")
}

/// Ends a pod in any state and removes it: its containers get their grace period, unless the request is to
/// kill.
///
/// # Errors
/// As of [`remove`].
pub async fn take_down(run: &PodRun) -> anyhow::Result<()> {
    if let Err(error) = stop_containers(run).await {
        // They end with the sandbox.
        run.report.emit(format_args!("{error:#}"));
    }
    remove(run).await
}
