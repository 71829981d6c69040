//! A server that starts finds the containers of the one before it.
//!
//! ```text
//!   every folder ─> records ─> known, with its lease ─> per pod: the monitor's word, or nobody's
//!                └> unreadable: set aside             └> no pod: exited, its end unknown
//! ```
//!
//! Nothing found here keeps the server from starting: what is broken is said and left behind.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crisp_executor::id::ContainerId;
use crisp_image_service::Store;
use tokio::task::JoinSet;

use crate::clock;
use crate::container::exit::Exit;
use crate::container::record::{self, RecordError};
use crate::container::state::State;
use crate::container::status_cell::{Status, StatusCell};
use crate::container::{Container, ContainerMetadata};
use crate::exits;
use crate::layout::{Folder, Layout};
use crate::ops::container_create::remove_folder;
use crate::service_state::ServiceState;
use crate::stage::Cause;

/// For one pod's monitor to answer.
const REPORT: Duration = Duration::from_secs(5);

/// Reads all records and compares them with the monitors.
///
/// # Errors
/// Only when the folders themselves cannot be made or read.
pub(crate) async fn recover(service: &Arc<ServiceState>) -> Result<(), Cause> {
    let (layout, images) = (service.layout.clone(), service.images.clone());
    let found = tokio::task::spawn_blocking(move || read_all(&layout, &images));
    for container in found.await.map_err(|e| Cause::Task(e.to_string()))?? {
        service.containers.insert(Arc::new(container));
    }
    let mut tasks = JoinSet::new();
    for pod in service.pods.list() {
        let service = service.clone();
        tasks.spawn(async move {
            match pod.link() {
                Ok(link) => {
                    let asked = exits::reconcile(&service, &pod, &link, exits::Starts::Abandoned);
                    if tokio::time::timeout(REPORT, asked).await.is_err() {
                        tracing::error!(pod = %pod.id, "the pod's monitor does not answer");
                        exits::silent(&service, &pod);
                    }
                }
                Err(_) if pod.status().state.may_run() => exits::silent(&service, &pod),
                Err(_) => exits::lost(&service, &pod),
            }
        });
    }
    while tasks.join_next().await.is_some() {}
    settle(service);
    Ok(())
}

/// What no monitor had a word on.
fn settle(service: &Arc<ServiceState>) {
    for container in service.containers.all() {
        let state = container.status().state.clone();
        let pod = service.pod_of(&container);
        let monitored = pod.as_ref().is_some_and(|pod| pod.status().state.may_run());
        let change = match (&state, monitored) {
            (State::Created | State::Exited(_), _)
            | (State::Unknown { .. } | State::Running { .. }, true) => continue,
            // The monitor knows of no such start, or it would have been taken over.
            (State::Starting, true) => {
                let message = "the server ended while it started the container".to_owned();
                container.status_cell.update(|s| s.exited(Exit::start_error(message, clock::now())))
            }
            (State::Starting | State::Running { .. } | State::Unknown { .. }, false) => {
                let message = "its pod is gone".to_owned();
                container.status_cell.update(|s| s.exited(Exit::lost(message, clock::now())))
            }
        };
        if let Err(error) = change {
            tracing::error!(container = %container.id(), %error, "cannot note the end of a container");
        }
        if let Some(pod) = pod
            && let Err(error) = crate::ops::container_start::remove_cgroup(service, &container, &pod)
        {
            tracing::warn!(container = %container.id(), %error, "cannot clear away after a container");
        }
    }
}

fn read_all(layout: &Layout, images: &Store) -> Result<Vec<Container>, Cause> {
    let root = layout.containers();
    fs::create_dir_all(&root).map_err(Cause::file(&root))?;
    let mut containers = Vec::new();
    for entry in fs::read_dir(&root).map_err(Cause::file(&root))? {
        let entry = entry.map_err(Cause::file(&root))?;
        let Ok(id) = ContainerId::parse(&entry.file_name().to_string_lossy()) else {
            tracing::warn!(path = %entry.path().display(), "not a container's folder; left alone");
            continue;
        };
        match read_one(layout.container(&id), &id, images) {
            Ok(container) => containers.push(container),
            Err(error) => put_away(layout, &id, &entry.path(), &error),
        }
    }
    Ok(containers)
}

fn read_one(folder: Folder, id: &ContainerId, images: &Store) -> Result<Container, RecordError> {
    let metadata: ContainerMetadata = record::read(&folder.record())?;
    let status: Status = record::read(&folder.status())?;
    if metadata.id != *id {
        let source = std::io::Error::other(format!("it is about {}", metadata.id));
        return Err(RecordError::Io { path: folder.record(), source });
    }
    // Without its layers it cannot be started, but its story can still be told.
    let lease = images
        .lease(&metadata.image.diff_ids)
        .inspect_err(|error| tracing::warn!(container = %id, %error, "its image is not whole any more"))
        .ok();
    let status_cell = StatusCell::at(folder.status(), status);
    Ok(Container::new(metadata, folder, status_cell, lease))
}

/// A folder without records is what a creation left when the server died: nobody was told of it. Any
/// other that cannot be read is kept for people to look at.
fn put_away(layout: &Layout, id: &ContainerId, path: &Path, why: &RecordError) {
    let missing =
        matches!(why, RecordError::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound);
    let done = if missing {
        remove_folder(path)
    } else {
        let aside = layout.set_aside();
        fs::create_dir_all(&aside)
            .and_then(|()| fs::rename(path, aside.join(id.as_str())))
            .map_err(Cause::file(path))
    };
    match done {
        Ok(()) => tracing::warn!(container = %id, %why, kept = !missing, "put a container's folder away"),
        Err(error) => tracing::error!(container = %id, %why, %error, "cannot put a container's folder away"),
    }
}
