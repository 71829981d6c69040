//! Recovery: a starting server finds the containers of the one before it.
//!
//! ```text
//!   every folder ─> records ─> listed, with its lease ─> per pod: the monitor's report
//!                ├> not valid: set aside              └> no pod: exited, its end unknown
//!                └> the disk refuses: read again, even while the server serves
//! ```
//!
//! Nothing here keeps the server from starting: a folder that cannot be read is reported and kept.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crisp_executor::ids::ContainerId;
use crisp_image_service::store::KeepAll;
use crisp_image_service::{DiffId, Lease, Store, StoreError};
use crisp_operation::record::{self, RecordError};
use crisp_operation::{Interrupted, clock};
use crisp_sandbox::Pod;
use tokio::task::{JoinHandle, JoinSet};

use crate::cause::Cause;
use crate::container::exit::Exit;
use crate::container::state::State;
use crate::container::status::Status;
use crate::container::{Container, ContainerMetadata, Leases};
use crate::exits::{self, Reconciled};
use crate::layout::{Folder, Layout};
use crate::ops::container_remove::delete_in_background;
use crate::ops::{container_cgroup, container_hooks, container_pause};
use crate::service_state::ServiceState;

/// Time limit for a report of one pod's monitor.
const REPORT: Duration = Duration::from_secs(5);

/// Time limit for a disk that refuses to read records, before the server starts without them.
const DISK: Duration = Duration::from_secs(2);
/// The first and the longest pause between two tries to read records.
const PAUSE: [Duration; 2] = [Duration::from_millis(50), Duration::from_secs(10)];

/// Reads all records and compares them with the monitors' reports.
///
/// # Errors
/// Only when the folders themselves cannot be made or read.
pub(crate) async fn recover(service: &Arc<ServiceState>) -> Result<(), Cause> {
    let (layout, images) = (service.layout.clone(), service.images.clone());
    let work = move || Ok::<_, Cause>((discarded(&layout)?, read_all(&layout, &images)?));
    let (discarded, found) = match tokio::task::spawn_blocking(work).await {
        Ok(found) => found?,
        Err(_) => return Err(Interrupted::ShuttingDown.into()),
    };
    for (id, folder) in found.set_aside {
        service.set_aside.keep_layers(&service.pods, &service.images, id, &folder);
    }
    let surplus = record::surplus_aside(found.aside_before);
    delete_in_background(service, discarded);
    for container in found.containers {
        service.containers.insert(Arc::new(container));
    }
    let mut refused = found.refused;
    // The layers that they need are unknown.
    let kept = (!refused.is_empty()).then(|| service.images.keep_all());
    // The rest continues in the background.
    let _ = tokio::time::timeout(DISK, read_again(service, &mut refused, |_| ())).await;
    let mut tasks = JoinSet::new();
    for pod in service.pods.list() {
        let service = service.clone();
        tasks.spawn(async move { compare(&service, &pod).await });
    }
    while tasks.join_next().await.is_some() {}
    let mut removals = Vec::new();
    for container in service.containers.all() {
        removals.extend(end_if_lost(service, &container));
        unpause_if_committed(service, &container);
    }
    for removal in removals {
        // It has no result.
        let _ = removal.await;
    }
    if !refused.is_empty() {
        read_in_background(service, refused, kept);
    }
    delete_surplus(service, surplus);
    Ok(())
}

/// Deletes folders that earlier servers set aside, except those of containers that may run: they wait for a
/// later start.
fn delete_surplus(service: &Arc<ServiceState>, mut folders: Vec<PathBuf>) {
    folders.retain(|folder| !service.set_aside.may_run(folder));
    if folders.is_empty() {
        return;
    }
    for folder in &folders {
        tracing::info!(path = %folder.display(), "deletes a container's folder that was set aside: newer ones are kept");
    }
    delete_in_background(service, folders);
}

/// Compares the containers of a pod with its monitor's report.
async fn compare(service: &Arc<ServiceState>, pod: &Arc<Pod>) {
    match pod.link() {
        Ok(link) => {
            let reconciled = exits::reconcile(service, pod, &link, exits::Starts::Abandoned);
            // Also for a monitor that refuses or closes: the result of a start is unknown.
            if matches!(tokio::time::timeout(REPORT, reconciled).await, Err(_) | Ok(Reconciled::Silent)) {
                tracing::error!(pod = %pod.id, "the pod's monitor does not answer");
                exits::silent(service, pod);
            }
        }
        Err(_) if pod.status().state.may_run() => exits::silent(service, pod),
        Err(_) => exits::lost(service, pod),
    }
}

/// Lists containers whose records the disk refused to read, as soon as it can; `refused` keeps the others.
async fn read_again(
    service: &Arc<ServiceState>,
    refused: &mut Vec<ContainerId>,
    listed: impl Fn(&Arc<Container>),
) {
    let [mut pause, longest] = PAUSE;
    while !refused.is_empty() {
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(longest);
        let (layout, images, ids) = (service.layout.clone(), service.images.clone(), refused.clone());
        let work =
            move || ids.into_iter().map(|id| (read_one(layout.container(&id), &id, &images), id)).collect();
        let Ok(read) = tokio::task::spawn_blocking::<_, Vec<_>>(work).await else { return };
        let mut left = Vec::new();
        for (read, id) in read {
            match read {
                Ok(container) => {
                    let container = Arc::new(container);
                    service.containers.insert(container.clone());
                    listed(&container);
                }
                Err(ReadError::Refused(_)) => left.push(id),
                Err(ReadError::Unusable(error)) => {
                    let folder = set_aside(service.layout.container(&id).path(), &error);
                    service.set_aside.keep_layers(&service.pods, &service.images, id, &folder);
                }
            }
        }
        *refused = left;
    }
}

fn read_in_background(service: &Arc<ServiceState>, mut refused: Vec<ContainerId>, kept: Option<KeepAll>) {
    let service = service.clone();
    tokio::spawn(async move {
        let listed = |container: &Arc<Container>| {
            let (service, container) = (service.clone(), container.clone());
            tokio::spawn(async move { compare_late(&service, &container).await });
        };
        read_again(&service, &mut refused, listed).await;
        drop(kept);
    });
}

/// Compares one container with its monitor's report, while other containers of its pod may be starting.
async fn compare_late(service: &Arc<ServiceState>, container: &Arc<Container>) {
    // No operation of this server starts it.
    if container.status().state == State::Starting {
        let why = "an earlier server started it".to_owned();
        let _ = container.observe(|state| state.lost(why));
    }
    if let Some(pod) = service.pod_of(container) {
        while let Ok(link) = pod.link() {
            if exits::reconcile(service, &pod, &link, exits::Starts::UnderWay).await == Reconciled::Done {
                return unpause_if_committed(service, container);
            }
            tokio::time::sleep(REPORT).await;
        }
        // The follower of the pod requests a report when the monitor answers again.
        if !pod.status().state.may_run() {
            exits::lost(service, &pod);
        }
    }
    drop(end_if_lost(service, container));
}

/// Resumes a container that was paused for a commit, because the commit's server has ended.
fn unpause_if_committed(service: &Arc<ServiceState>, container: &Arc<Container>) {
    if container.status().committing {
        tokio::spawn(container_pause::end_commit(service.clone(), container.clone()));
    }
}

/// Ends a container that no monitor reported and that has no pod. Returns the removal of its cgroup, which
/// may take seconds.
fn end_if_lost(service: &Arc<ServiceState>, container: &Arc<Container>) -> Option<JoinHandle<()>> {
    if matches!(container.status().state, State::Exited(_)) {
        container_hooks::run_poststop_in_background(container, None);
    }
    let pod = service.pod_of(container);
    let monitored = pod.as_ref().is_some_and(|pod| pod.status().state.may_run());
    let starts = if !monitored && exits::note_unnoted_start(service, container) {
        exits::Starts::Abandoned
    } else {
        exits::Starts::UnderWay
    };
    let exit = match (&container.status().state, monitored) {
        (State::Created, false) => {
            // It was prepared for a start that cannot come.
            return Some(remove_cgroup(service, container));
        }
        (State::Created | State::Exited(_) | State::Removing { .. }, _)
        | (State::Unknown { .. } | State::Running { .. }, true) => return None,
        // The end of its monitor is recorded already, or its exit record is being read.
        (_, false) if pod.is_some() => return None,
        // The monitor does not know of such a start; otherwise this server would have taken it over.
        (State::Starting, true) => {
            Exit::start_error("the server ended while it started the container".to_owned(), clock::now())
        }
        (State::Starting | State::Running { .. } | State::Unknown { .. }, false) => {
            let recorded = exits::recorded(service, container).ok().flatten();
            recorded.unwrap_or_else(|| Exit::lost("its pod is gone".to_owned(), clock::now()))
        }
    };
    if let Err(refusal) = exits::note(service, container, exit, starts) {
        tracing::error!(container = %container.id(), %refusal, "cannot note the end of a container");
    }
    Some(remove_cgroup(service, container))
}

/// Without its monitor it may still run, and nothing else would end it.
fn remove_cgroup(service: &Arc<ServiceState>, container: &Arc<Container>) -> JoinHandle<()> {
    let (service, container) = (service.clone(), container.clone());
    let cleaning = container.cleaning.clone().try_lock_owned().ok();
    tokio::task::spawn_blocking(move || {
        if let Err(error) = container_cgroup::remove(&service, &container) {
            tracing::warn!(container = %container.id(), %error, "cannot remove the container's cgroup");
        }
        exits::close_files(&container);
        if let Err(error) = container_hooks::run_poststop(&container) {
            tracing::warn!(container = %container.id(), %error, "its poststop hooks will run again");
        }
        drop(cleaning);
    })
}

/// Folders that interrupted creations and removals have left.
fn discarded(layout: &Layout) -> Result<Vec<PathBuf>, Cause> {
    let root = layout.discarded();
    fs::create_dir_all(&root).map_err(Cause::file(&root))?;
    let entries = fs::read_dir(&root).map_err(Cause::file(&root))?;
    Ok(entries.flatten().map(|entry| entry.path()).collect())
}

/// The content of the folders of containers.
#[derive(Default)]
struct Found {
    containers: Vec<Container>,
    /// Containers whose records may be valid but could not be read.
    refused: Vec<ContainerId>,
    /// Folders of containers whose records are not valid, set aside by this server or an earlier one.
    set_aside: Vec<(ContainerId, PathBuf)>,
    /// Those that an earlier server set aside.
    aside_before: Vec<PathBuf>,
}

enum ReadError {
    Unusable(RecordError),
    /// The disk or the kernel refused (EIO, EMFILE...).
    Refused(RecordError),
}

impl From<RecordError> for ReadError {
    fn from(error: RecordError) -> Self {
        if error.is_unusable() || error.is_missing() { Self::Unusable(error) } else { Self::Refused(error) }
    }
}

fn read_all(layout: &Layout, images: &Store) -> Result<Found, Cause> {
    let root = layout.containers();
    fs::create_dir_all(&root).map_err(Cause::file(&root))?;
    let mut found = Found::default();
    for entry in fs::read_dir(&root).map_err(Cause::file(&root))? {
        let path = entry.map_err(Cause::file(&root))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if record::is_aside(&path) {
            let id = name.split_once('.').and_then(|(name, _)| ContainerId::parse(name).ok());
            found.set_aside.extend(id.map(|id| (id, path.clone())));
            found.aside_before.push(path);
            continue;
        }
        let Ok(id) = ContainerId::parse(&name) else {
            tracing::warn!(path = %path.display(), "not a container's folder; left alone");
            continue;
        };
        match read_one(layout.container(&id), &id, images) {
            Ok(container) => found.containers.push(container),
            Err(ReadError::Unusable(error)) => {
                found.set_aside.push((id, set_aside(&path, &error)));
            }
            Err(ReadError::Refused(error)) => {
                tracing::error!(container = %id, %error, "a container's records cannot be read; trying on");
                found.refused.push(id);
            }
        }
    }
    Ok(found)
}

fn read_one(folder: Folder, id: &ContainerId, images: &Store) -> Result<Container, ReadError> {
    let metadata: ContainerMetadata = record::read(&folder.record())?;
    let status = match record::read(&folder.status()).map_err(ReadError::from) {
        Ok(status) => status,
        Err(ReadError::Unusable(error)) => without_status(&metadata, &folder, &error),
        Err(refused) => return Err(refused),
    };
    if metadata.id != *id {
        let source = std::io::Error::other(format!("it is about {}", metadata.id));
        return Err(ReadError::Unusable(RecordError::Io { path: folder.record(), source }));
    }
    let leases = leases(&metadata, images);
    Ok(Container::new(metadata, status, folder, Some(leases)))
}

/// One lease per image: without some layers the container cannot be started, but it may run on the others,
/// which are held. No layer is collected before the server is open.
fn leases(metadata: &ContainerMetadata, images: &Store) -> Leases {
    let lease = |layers: &Vec<DiffId>| {
        let missing = |error: &StoreError| {
            tracing::warn!(container = %metadata.id, %error, "layers of its images are missing");
        };
        images.lease(layers).inspect_err(missing).ok()
    };
    let mounted: Vec<Option<Lease>> = metadata.mounted_images.iter().map(lease).collect();
    let root = lease(&metadata.image.diff_ids);
    let all = std::iter::once((&root, &metadata.image.diff_ids))
        .chain(mounted.iter().zip(&metadata.mounted_images));
    let held = all.filter(|(lease, _)| lease.is_none()).map(|(_, layers)| images.hold(layers)).collect();
    Leases { root, mounted, held }
}

/// The status of a container whose status record is damaged; its monitor knows the real one.
fn without_status(metadata: &ContainerMetadata, folder: &Folder, error: &RecordError) -> Status {
    tracing::error!(container = %metadata.id, %error, "the status of a container is lost");
    if !error.is_missing()
        && let Err(error) = record::set_aside(&folder.status())
    {
        tracing::error!(container = %metadata.id, %error, "cannot set its damaged status aside");
    }
    let state = State::Unknown { why: error.to_string(), pid: None, started_at: None };
    Status { state, ..Status::created(metadata.config.resources.clone()) }
}

/// Keeps a folder that is not valid: it may have data that a container wrote. Returns its new path.
fn set_aside(path: &Path, why: &RecordError) -> PathBuf {
    match record::set_aside(path) {
        Ok(aside) => {
            tracing::error!(%why, kept = %aside.display(), "a container cannot be recovered");
            aside
        }
        Err(error) => {
            tracing::error!(%why, %error, path = %path.display(), "a container cannot be recovered");
            path.to_owned()
        }
    }
}
