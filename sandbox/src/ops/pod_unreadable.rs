//! A pod of an earlier server whose record cannot be read or used.
//!
//! ```text
//!   the disk refuses (EIO, EMFILE...)   listed as Degraded; read again until that succeeds
//!   missing, or not valid:
//!     the monitor has ended             set aside, beside the pod's folder; the cgroup is removed
//!     the monitor may live              Degraded, listed with the readable part of its configuration
//! ```

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use std::{fs, io};

use crisp_executor::ids::PodId;
use crisp_operation::KeyedGuard;
use crisp_operation::record::{is_aside, private_folder, remove_folder, set_aside, surplus_aside};

use super::monitor_probe::{ANSWER, Probe, probe};
use super::{monitor_process, network_upkeep, pod_watch, teardown};
use crate::config::PodConfig;
use crate::layout::Layout;
use crate::pod::Pod;
use crate::pod::record::{LoadError, PodMetadata, PodRecord};
use crate::pod::state::{PodState, PodStatus};
use crate::service_state::ServiceState;

const OPERATION: &str = "recover_pod";
/// The first and the longest pause between two tries to read a record.
const PAUSE: [Duration; 2] = [Duration::from_millis(50), Duration::from_secs(10)];

/// Recovers as much as possible. If the record could be read after all, returns it with the pod's lock.
pub(crate) async fn recover(
    service: &Arc<ServiceState>,
    id: &PodId,
    error: LoadError,
) -> Option<(PodRecord, KeyedGuard)> {
    if !error.is_transient() {
        recover_unusable(service, id, &error).await;
        return None;
    }
    match read_again(service, id, &error).await? {
        (Ok(record), lock) => Some((record, lock)),
        (Err(error), _lock) => {
            recover_unusable(service, id, &error).await;
            None
        }
    }
}

/// Lists a placeholder for the pod until its record can be read, or until it is removed.
async fn read_again(
    service: &ServiceState,
    id: &PodId,
    error: &LoadError,
) -> Option<(Result<PodRecord, LoadError>, KeyedGuard)> {
    tracing::error!(pod = %id, %error, "the record of a pod cannot be read; trying on");
    let pod = waiting_pod(service, id, error);
    service.table.insert(&pod);
    let is_listed = || service.table.get(id).is_some_and(|listed| Arc::ptr_eq(&listed, &pod));
    let [mut pause, longest] = PAUSE;
    loop {
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(longest);
        let (layout, again) = (service.layout.clone(), id.clone());
        let read = tokio::task::spawn_blocking(move || PodRecord::load(&layout, &again)).await.ok()?;
        if !is_listed() {
            return None;
        }
        if read.as_ref().is_err_and(LoadError::is_transient) {
            continue;
        }
        // A stop or a removal may be under way.
        let Ok(lock) = service.lock(id, OPERATION).await else { continue };
        return is_listed().then_some((read, lock));
    }
}

fn waiting_pod(service: &ServiceState, id: &PodId, error: &LoadError) -> Arc<Pod> {
    let monitor_pid = monitor_process::find(id);
    let why = format!("its record cannot be read: {error}; the server tries on; its containers run on");
    let status = PodStatus::new(PodState::Degraded { why }, monitor_pid);
    let pod =
        Pod::new(&service.layout, PodRecord { metadata: known_metadata(service, id, monitor_pid), status });
    // The record on disk has more than is known here.
    pod.status.close();
    pod
}

/// The known metadata of a pod whose record cannot be read as a whole.
fn known_metadata(service: &ServiceState, id: &PodId, monitor_pid: Option<i32>) -> PodMetadata {
    let (config, driver) = PodRecord::salvage_config(&service.layout, id).unwrap_or_else(|| {
        let found = monitor_pid.and_then(|pid| monitor_process::cgroup_parent(pid, id));
        let (cgroup_parent, driver) = found.unwrap_or((None, service.cgroup_driver()));
        (PodConfig { cgroup_parent, ..PodConfig::unknown(id) }, driver)
    });
    PodMetadata::new(id.clone(), config, driver)
}

fn unlist(service: &ServiceState, id: &PodId) {
    if let Some(pod) = service.table.get(id) {
        service.table.remove(&pod);
    }
}

async fn recover_unusable(service: &Arc<ServiceState>, id: &PodId, error: &LoadError) {
    // A look at all processes: others are recovered meanwhile.
    let of_pod = id.clone();
    let pid = tokio::task::spawn_blocking(move || monitor_process::find(&of_pod)).await.ok().flatten();
    let link = match probe(service, id, pid, ANSWER).await {
        Probe::Gone => {
            clear_away(service, id, error);
            give_back_network(service, id);
            return;
        }
        Probe::Reached(link) => Some(link),
        Probe::Silent(_) => None,
    };
    let pod = degraded_pod(service, id, error, pid);
    let why = &pod.status().state;
    tracing::error!(pod = %id, name = %pod.config.name, %why, "a pod runs whose record cannot be used");
    unlist(service, id);
    service.table.insert(&pod);
    network_upkeep::adopt(service, &pod);
    if let Some(link) = link {
        let _ = pod_watch::reached(service, &pod, link.clone()).await;
        pod_watch::watch(service, &pod, Some(link), false);
    } else {
        pod_watch::watch(service, &pod, None, false);
    }
}

/// A pod whose monitor lives: its folders are kept, and it is listed for people.
fn degraded_pod(service: &ServiceState, id: &PodId, error: &LoadError, monitor_pid: Option<i32>) -> Arc<Pod> {
    let layout = &service.layout;
    let metadata = known_metadata(service, id, monitor_pid);
    let kept = match set_aside(&layout.record(id)) {
        Ok(path) => format!("it is kept as {}", path.display()),
        Err(error) => format!("it cannot be set aside: {error}"),
    };
    let why = format!(
        "its record cannot be used: {error}; {kept}; its containers run on, no other can be started; stop \
         and remove the pod to have it made anew"
    );
    let status = PodStatus::new(PodState::Degraded { why }, monitor_pid);
    let pod = Pod::new(layout, PodRecord { metadata, status });
    let saved = private_folder(&layout.pod_root(id)).map_err(|error| error.to_string());
    if let Err(error) = saved.and_then(|()| pod.status.save().map_err(|error| error.to_string())) {
        tracing::error!(pod = %id, error, "cannot write a new record for a pod; the next start tries again");
    }
    pod
}

/// Cleans up a pod in which nothing runs. An invalid record is kept for inspection; without a record, the
/// server ended before it wrote the first one or after it removed the last one.
fn clear_away(service: &ServiceState, id: &PodId, error: &LoadError) {
    // Before the record is set aside: it has the path of the cgroup.
    let metadata = known_metadata(service, id, None);
    let root = service.layout.pod_root(id);
    if !error.is_missing() {
        match set_aside(&root) {
            Ok(kept) => tracing::warn!(pod = %id, %error, kept = %kept.display(), "set a pod's record aside"),
            Err(aside) => tracing::error!(pod = %id, %error, %aside, "cannot set a pod's record aside"),
        }
    }
    let remove = |path: &Path| match remove_folder(path) {
        Ok(()) => {}
        Err(error) => tracing::warn!(pod = %id, %error, "cannot remove what is left of a pod"),
    };
    // Exits that no server has received are read by the owner of the containers; the next start removes them.
    if error.is_missing() || !has_exits(&service.layout, id) {
        remove(&service.layout.pod_state(id));
    }
    if error.is_missing() {
        remove(&root);
    }
    unlist(service, id);
    let pod = Pod::new(&service.layout, PodRecord { metadata, status: PodStatus::starting() });
    if let Err(error) = teardown::remove_pod_cgroups(service, &pod) {
        tracing::warn!(pod = %id, %error, "cannot remove the cgroup of a pod whose record is of no use");
    }
}

/// Deletes the records that earlier servers set aside, except the newest. No process of their pods ran.
///
/// # Errors
/// The folder cannot be read.
pub(crate) fn delete_surplus(layout: &Layout) -> io::Result<()> {
    let mut aside = Vec::new();
    for entry in fs::read_dir(layout.pods_root())? {
        aside.extend(Some(entry?.path()).filter(|path| is_aside(path)));
    }
    for path in surplus_aside(aside) {
        match remove_folder(&path) {
            Ok(()) => {
                tracing::info!(path = %path.display(), "deleted a pod's record that was set aside: newer ones are kept");
            }
            Err(error) => tracing::warn!(%error, "a pod's record that was set aside stays"),
        }
    }
    Ok(())
}

/// In the background: a plugin may be slow, and the server must start.
fn give_back_network(service: &Arc<ServiceState>, id: &PodId) {
    let (service, id) = (service.clone(), id.clone());
    tokio::spawn(async move {
        if let Err(error) = service.networks.detach(&id).await {
            tracing::warn!(pod = %id, %error, "cannot give back the network of a pod whose record is of no use");
        }
    });
}

fn has_exits(layout: &Layout, id: &PodId) -> bool {
    fs::read_dir(layout.exits(id)).is_ok_and(|mut exits| exits.next().is_some())
}
