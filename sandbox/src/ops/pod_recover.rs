//! Finds the pods of an earlier server from their records, and reconnects to their monitors, all at once.
//! Nothing that is found here keeps the server from starting.
//!
//! ```text
//!   record         monitor      becomes
//!   Starting       any          undone and removed; listed as Failed until that has succeeded
//!   Ready          answers      Ready
//!                  silent       Unknown, and reaching it goes on in the background
//!                  ended        Lost
//!   Failed, Lost, Stopped ...   as recorded
//!   unreadable     ended        set aside, beside the pod's folder
//!                  else         Degraded, listed with what can be read of its configuration
//! ```

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use std::{fs, io};

use crisp_executor::id::PodId;
use crisp_operation::record::{private_folder, remove_folder, set_aside};
use tokio::task::JoinSet;

use super::monitor_probe::{Probe, probe};
use super::{monitor_process, pod_remove, pod_watch, teardown};
use crate::config::PodConfig;
use crate::layout::Layout;
use crate::pod::Pod;
use crate::pod::record::{LoadError, PodMetadata, PodRecord};
use crate::pod::state::{PodState, PodStatus};
use crate::service_state::ServiceState;

/// For a monitor to answer, before it counts as silent.
const ANSWER: Duration = Duration::from_secs(3);
/// For all pods together. What takes longer goes on while the server serves.
const START: Duration = Duration::from_secs(10);
const NETWORKS: Duration = Duration::from_secs(2);

/// Finds the pods of an earlier server.
///
/// # Errors
/// Only when the folders themselves cannot be made or read.
pub(crate) async fn recover(service: &Arc<ServiceState>) -> io::Result<()> {
    private_folder(&service.layout.pods_root())?;
    private_folder(&service.layout.pods_state())?;
    let mut tasks = JoinSet::new();
    for id in pod_ids(&service.layout)? {
        load(service, id, &mut tasks);
    }
    let all = async { while tasks.join_next().await.is_some() {} };
    if tokio::time::timeout(START, all).await.is_err() {
        tracing::warn!(after = ?START, pods = tasks.len(), "finding pods again takes long; going on with it while serving");
    }
    tasks.detach_all();
    give_back_networks(service).await;
    Ok(())
}

/// The pods of which there is a folder.
fn pod_ids(layout: &Layout) -> io::Result<BTreeSet<PodId>> {
    let mut ids = BTreeSet::new();
    for folder in [layout.pods_root(), layout.pods_state()] {
        for entry in fs::read_dir(folder)? {
            ids.extend(PodId::parse(&entry?.file_name().to_string_lossy()));
        }
    }
    Ok(ids)
}

/// Lists the pod as its record has it; what needs its monitor's answer becomes one of the `tasks`.
fn load(service: &Arc<ServiceState>, id: PodId, tasks: &mut JoinSet<()>) {
    let service = service.clone();
    let record = match PodRecord::load(&service.layout, &id) {
        Ok(record) => record,
        Err(error) => {
            tasks.spawn(async move { recover_unreadable(&service, &id, &error).await });
            return;
        }
    };
    let this_boot = record.metadata.is_of_this_boot();
    let pod = Pod::new(&service.layout, record);
    service.table.insert(&pod);
    let state = pod.status().state.clone();
    if state == PodState::Starting {
        let why = "the server ended while it made the pod".to_owned();
        let _ = pod.status.show(|status| status.failed(why));
        tasks.spawn(async move { undo_start(&service, &pod).await });
    } else if state.may_run() && this_boot {
        let why = "the server has started and has not reached the monitor yet".to_owned();
        let _ = pod.status.show(|status| status.silent(why));
        tasks.spawn(async move { adopt(&service, &pod).await });
    } else if state.may_run() {
        pod_watch::lost(&service, &pod);
    }
}

/// The client was never told of this pod, so that it will not remove it.
async fn undo_start(service: &Arc<ServiceState>, pod: &Arc<Pod>) {
    if let Probe::Reached(link) = probe(service, &pod.id, None, ANSWER).await {
        pod.set_link(link);
    }
    match pod_remove::remove(service, pod).await {
        Ok(()) => tracing::info!(pod = %pod.id, "undid a pod that was being made when the server ended"),
        Err(error) => {
            tracing::error!(pod = %pod.id, %error, "cannot undo a half-made pod; it is listed: remove it");
        }
    }
}

async fn adopt(service: &Arc<ServiceState>, pod: &Arc<Pod>) {
    match probe(service, &pod.id, pod.status().monitor_pid, ANSWER).await {
        Probe::Reached(link) => {
            if let Some(link) = pod_watch::reached(service, pod, link).await {
                pod_watch::watch(service, pod, Some(link), true);
            }
        }
        Probe::Silent(error) => {
            pod_watch::silent(service, pod, &error);
            pod_watch::watch(service, pod, None, true);
        }
        Probe::Gone => pod_watch::lost(service, pod),
    }
}

async fn recover_unreadable(service: &Arc<ServiceState>, id: &PodId, error: &LoadError) {
    let pid = monitor_process::find(id);
    let link = match probe(service, id, pid, ANSWER).await {
        Probe::Gone => return clear_away(service, id, error),
        Probe::Reached(link) => Some(link),
        Probe::Silent(_) => None,
    };
    let pod = unreadable_pod(service, id, error, pid);
    let why = &pod.status().state;
    tracing::error!(pod = %id, name = %pod.config.name, %why, "a pod runs whose record cannot be read");
    service.table.insert(&pod);
    if let Some(link) = link {
        let _ = pod_watch::reached(service, &pod, link.clone()).await;
        pod_watch::watch(service, &pod, Some(link), false);
    } else {
        pod_watch::watch(service, &pod, None, false);
    }
}

/// A pod whose monitor lives: it needs its folders, and people need to find it.
fn unreadable_pod(
    service: &ServiceState,
    id: &PodId,
    error: &LoadError,
    monitor_pid: Option<i32>,
) -> Arc<Pod> {
    let layout = &service.layout;
    let config = PodRecord::salvage_config(layout, id).unwrap_or_else(|| PodConfig {
        cgroup_parent: monitor_pid.and_then(|pid| monitor_process::cgroup_parent(pid, id)),
        ..PodConfig::unknown(id)
    });
    let kept = match set_aside(&layout.record(id)) {
        Ok(path) => format!("it is kept as {}", path.display()),
        Err(error) => format!("it cannot be set aside: {error}"),
    };
    let why = format!(
        "its record cannot be used: {error}; {kept}; its containers run on, no other can be started; stop \
         and remove the pod to have it made anew"
    );
    let status = PodStatus { state: PodState::Degraded { why }, ips: vec![], monitor_pid };
    let pod = Pod::new(layout, PodRecord { metadata: PodMetadata::new(id.clone(), config), status });
    let saved = private_folder(&layout.pod_root(id)).map_err(|error| error.to_string());
    if let Err(error) = saved.and_then(|()| pod.status.save().map_err(|error| error.to_string())) {
        tracing::error!(pod = %id, error, "cannot write a new record for a pod; the next start tries again");
    }
    pod
}

/// Nothing runs in this pod. A record that cannot be used is kept for people to look at; without a record,
/// the server ended before it wrote the first or after it removed the last.
fn clear_away(service: &ServiceState, id: &PodId, error: &LoadError) {
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
    remove(&service.layout.pod_state(id));
    if error.is_missing() {
        remove(&root);
    }
    let metadata = PodMetadata::new(id.clone(), PodConfig::unknown(id));
    let pod = Pod::new(&service.layout, PodRecord { metadata, status: PodStatus::starting() });
    if let Err(error) = teardown::remove_pod_cgroups(service, &pod) {
        tracing::warn!(pod = %id, %error, "cannot remove the cgroup of a pod whose record is of no use");
    }
}

/// Before any new pod can be mistaken for an old one; a plugin that hangs does not keep the server from
/// starting. A stopped pod has no network: what the server before this one could not give back in time is
/// given back now.
async fn give_back_networks(service: &ServiceState) {
    let pods = service.table.list();
    let live = pods.iter().filter(|pod| !pod.status().state.is_torn_down());
    let mut live: BTreeSet<PodId> = live.map(|pod| pod.id.clone()).collect();
    // A pod whose monitor is still asked for is not listed yet, and may run.
    let listed = |id: &PodId| service.table.get(id).is_some();
    match pod_ids(&service.layout) {
        Ok(ids) => live.extend(ids.into_iter().filter(|id| !listed(id))),
        Err(error) => {
            tracing::warn!(%error, "cannot tell which pods are no more; their networks stay until the next start");
            return;
        }
    }
    let live: Vec<PodId> = live.into_iter().collect();
    match tokio::time::timeout(NETWORKS, service.networks.gc(&live)).await {
        Ok(Ok(gone)) if gone.is_empty() => {}
        Ok(Ok(gone)) => tracing::info!(count = gone.len(), "gave back networks of pods that are no more"),
        Ok(Err(error)) => tracing::warn!(%error, "cannot give back all networks of pods that are no more"),
        Err(_) => {
            tracing::warn!(after = ?NETWORKS, "giving back networks of pods that are no more takes long");
        }
    }
}
