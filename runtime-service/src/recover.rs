//! A server that starts finds the containers of the one before it.
//!
//! ```text
//!   every folder ─> records ─> listed, with its lease ─> per pod: the monitor's report
//!                └> unreadable: set aside             └> no pod: exited, its end unknown
//! ```
//!
//! Nothing found here keeps the server from starting: a folder that cannot be read is reported and kept.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crisp_executor::id::ContainerId;
use crisp_image_service::Store;
use crisp_operation::record::{self, RecordError};
use crisp_operation::{Interrupted, clock};
use tokio::task::JoinSet;

use crate::cause::Cause;
use crate::container::exit::Exit;
use crate::container::state::State;
use crate::container::status::Status;
use crate::container::{Container, ContainerMetadata};
use crate::exits;
use crate::layout::{Folder, Layout};
use crate::ops::container_cgroup;
use crate::ops::container_remove::delete_in_background;
use crate::service_state::ServiceState;

/// For one pod's monitor to answer.
const REPORT: Duration = Duration::from_secs(5);

/// Reads all records and compares them with the monitors' reports.
///
/// # Errors
/// Only when the folders themselves cannot be made or read.
pub(crate) async fn recover(service: &Arc<ServiceState>) -> Result<(), Cause> {
    let (layout, images) = (service.layout.clone(), service.images.clone());
    let work = move || Ok::<_, Cause>((discarded(&layout)?, read_all(&layout, &images)?));
    let (discarded, containers) = match tokio::task::spawn_blocking(work).await {
        Ok(found) => found?,
        Err(_) => return Err(Interrupted::ShuttingDown.into()),
    };
    delete_in_background(service, discarded);
    for container in containers {
        service.containers.insert(Arc::new(container));
    }
    let mut tasks = JoinSet::new();
    for pod in service.pods.list() {
        let service = service.clone();
        tasks.spawn(async move {
            match pod.link() {
                Ok(link) => {
                    let reconciled = exits::reconcile(&service, &pod, &link, exits::Starts::Abandoned);
                    // Also for a monitor that refuses or closes: what it may have started is not known.
                    if !matches!(tokio::time::timeout(REPORT, reconciled).await, Ok(true)) {
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
    end_the_rest(service);
    Ok(())
}

/// Ends the containers that no monitor reported.
fn end_the_rest(service: &Arc<ServiceState>) {
    for container in service.containers.all() {
        let pod = service.pod_of(&container);
        let monitored = pod.as_ref().is_some_and(|pod| pod.status().state.may_run());
        let exit = match (&container.status().state, monitored) {
            (State::Created | State::Exited(_) | State::Removing { .. }, _)
            | (State::Unknown { .. } | State::Running { .. }, true) => continue,
            // The monitor does not know of such a start, or it would have been taken over.
            (State::Starting, true) => {
                Exit::start_error("the server ended while it started the container".to_owned(), clock::now())
            }
            (State::Starting | State::Running { .. } | State::Unknown { .. }, false) => {
                Exit::lost("its pod is gone".to_owned(), clock::now())
            }
        };
        if let Err(refusal) = container.observe(|state| state.exited(exit)) {
            tracing::error!(container = %container.id(), %refusal, "cannot note the end of a container");
        }
        if let Some(pod) = pod
            && let Err(error) = container_cgroup::remove(service, &container, &pod)
        {
            tracing::warn!(container = %container.id(), %error, "cannot remove the container's cgroup");
        }
    }
}

/// What creations that did not end, and removals, have left.
fn discarded(layout: &Layout) -> Result<Vec<PathBuf>, Cause> {
    let root = layout.discarded();
    fs::create_dir_all(&root).map_err(Cause::file(&root))?;
    let entries = fs::read_dir(&root).map_err(Cause::file(&root))?;
    Ok(entries.flatten().map(|entry| entry.path()).collect())
}

fn read_all(layout: &Layout, images: &Store) -> Result<Vec<Container>, Cause> {
    let root = layout.containers();
    fs::create_dir_all(&root).map_err(Cause::file(&root))?;
    let mut containers = Vec::new();
    for entry in fs::read_dir(&root).map_err(Cause::file(&root))? {
        let path = entry.map_err(Cause::file(&root))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.ends_with(".bad") {
            continue;
        }
        let Ok(id) = ContainerId::parse(&name) else {
            tracing::warn!(path = %path.display(), "not a container's folder; left alone");
            continue;
        };
        match read_one(layout.container(&id), &id, images) {
            Ok(container) => containers.push(container),
            Err(error) => set_aside(&path, &error),
        }
    }
    Ok(containers)
}

fn read_one(folder: Folder, id: &ContainerId, images: &Store) -> Result<Container, RecordError> {
    let metadata: ContainerMetadata = record::read(&folder.record())?;
    let status =
        record::read(&folder.status()).unwrap_or_else(|error| without_status(&metadata, &folder, &error));
    if metadata.id != *id {
        let source = std::io::Error::other(format!("it is about {}", metadata.id));
        return Err(RecordError::Io { path: folder.record(), source });
    }
    // Without its layers it cannot be started, but its status is still good.
    let lease = images
        .lease(&metadata.image.diff_ids)
        .inspect_err(|error| tracing::warn!(container = %id, %error, "layers of its image are missing"))
        .ok();
    Ok(Container::new(metadata, status, folder, lease))
}

/// The container is still known, and its monitor knows what it does.
fn without_status(metadata: &ContainerMetadata, folder: &Folder, error: &RecordError) -> Status {
    tracing::error!(container = %metadata.id, %error, "the status of a container is lost");
    if !error.is_missing()
        && let Err(error) = record::set_aside(&folder.status())
    {
        tracing::error!(container = %metadata.id, %error, "cannot set its damaged status aside");
    }
    let state = State::Unknown { why: error.to_string(), pid: None, started_at: None };
    Status { state, resources: metadata.config.resources.clone() }
}

/// Keeps a folder that cannot be read: it may have data that a container wrote.
fn set_aside(path: &Path, why: &RecordError) {
    match record::set_aside(path) {
        Ok(aside) => tracing::error!(%why, kept = %aside.display(), "a container cannot be recovered"),
        Err(error) => {
            tracing::error!(%why, %error, path = %path.display(), "a container cannot be recovered");
        }
    }
}
