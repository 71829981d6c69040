//! The end of a pod that was run: stopped, to be looked at, or removed with all that belongs to it.

use std::path::Path;

use anyhow::Context as _;

use super::pod_remove;
use super::pod_run::{PodRun, stop_containers};
use super::pod_start::{Found, find};
use super::volumes;
use crate::server::Server;

/// Stops what is there of the pod. Its record, its logs and its volumes stay.
///
/// # Errors
/// The runtime's.
pub async fn stop(run: &PodRun) -> anyhow::Result<()> {
    match run.find() {
        Found::Nothing => Ok(()),
        Found::Ready(id) | Found::Silent(id) | Found::Ended(id) => pod_remove::stop(&run.server, &id).await,
    }
}

/// Stops and removes the pod, if it is there, and its folder.
///
/// # Errors
/// The runtime's, and the file system's; it can be removed once more.
pub async fn remove(run: &PodRun) -> anyhow::Result<()> {
    remove_of(&run.server, &run.uid, &run.folder).await
}

/// As [`remove`], of a pod of which no more is known.
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
    // Away from the threads that answer requests: there may be much in it.
    let removed = tokio::task::spawn_blocking(move || volumes::remove_folder(&folder)).await?;
    removed.context("cannot remove a pod's folder")
}

/// Takes down a pod, whatever it does: its containers get their grace period, unless they are to be killed.
///
/// # Errors
/// As of [`remove`].
pub async fn take_down(run: &PodRun) -> anyhow::Result<()> {
    if let Err(error) = stop_containers(run).await {
        // The end of the sandbox ends them.
        run.report.say(format_args!("{error:#}"));
    }
    remove(run).await
}
