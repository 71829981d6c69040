//! After a restart of the server: every pod is found again from its record, all at once, each with
//! a deadline. Nothing found here can keep the server from starting.

use std::sync::Arc;
use std::time::Duration;
use std::{fs, io};

use crisp_executor::id::PodId;
use tokio::task::JoinSet;

use crate::layout::Layout;
use crate::lifecycle::run::{cgroup_parent, remove_files};
use crate::lifecycle::teardown::teardown;
use crate::lifecycle::watch;
use crate::link::MonitorLink;
use crate::network::PodNetlink;
use crate::pod::{Pod, PodState};
use crate::pods::{PodEvent, Pods};
use crate::record::{PodRecord, private_folder, remove_folder};

const CONNECT: Duration = Duration::from_secs(3);
const NETWORKS: Duration = Duration::from_secs(2);

/// Finds the pods of an earlier server.
///
/// # Errors
/// Only when the folders themselves cannot be made or read.
pub(crate) async fn recover(pods: &Pods) -> io::Result<()> {
    let layout = &pods.shared.layout;
    private_folder(&layout.pods_root())?;
    private_folder(&layout.pods_state())?;
    let mut tasks = JoinSet::new();
    for id in pod_folders(layout)? {
        let pods = pods.clone();
        tasks.spawn(async move { recover_one(&pods, id).await });
    }
    while tasks.join_next().await.is_some() {}
    remove_ownerless(pods)?;
    give_back_networks(pods).await;
    Ok(())
}

/// Before any new pod can be mistaken for an old one; but a plugin that hangs goes on behind the start.
async fn give_back_networks(pods: &Pods) {
    let live: Vec<PodId> = pods.list().into_iter().map(|p| p.id.clone()).collect();
    match tokio::time::timeout(NETWORKS, pods.shared.networks.gc(&live)).await {
        Ok(Ok(gone)) if gone.is_empty() => {}
        Ok(Ok(gone)) => tracing::info!(count = gone.len(), "gave back networks of pods that are no more"),
        Ok(Err(error)) => tracing::warn!(%error, "cannot give back all networks of pods that are no more"),
        Err(_) => {
            tracing::warn!(after = ?NETWORKS, "giving back networks of pods that are no more takes long")
        }
    }
}

async fn recover_one(pods: &Pods, id: PodId) {
    let layout = &pods.shared.layout;
    let record = match PodRecord::load(layout, &id) {
        Ok(record) => record,
        Err(error) if error.is_missing() => return discard(layout, &id),
        Err(error) => return set_aside(layout, &id, &error.to_string()),
    };
    let parent = cgroup_parent(&id, &record.config);
    let (state, this_boot) = (record.state, record.of_this_boot());
    let pod = Pod::new(layout, record, parent);
    match state {
        PodState::Starting => undo_start(pods, &pod).await,
        PodState::Ready if this_boot => adopt(pods, pod).await,
        PodState::Ready => lose(pods, &pod),
        PodState::Lost | PodState::Stopped => pods.insert(&pod),
    }
}

/// The server died while it made this pod; nobody was told of it, so nobody will remove it.
async fn undo_start(pods: &Pods, pod: &Arc<Pod>) {
    let socket = pods.shared.layout.socket(&pod.id);
    if let Ok(link) = MonitorLink::connect(&socket, CONNECT).await {
        pod.set_link(Some(link));
    }
    let failures = teardown(pods, pod, "recover_pod").await;
    if failures.is_empty() && remove_files(pods, pod).await.is_ok() {
        tracing::info!(pod = %pod.id, "undid a pod that was being made when the server ended");
        return;
    }
    for failure in failures {
        tracing::error!(pod = %pod.id, %failure, "cannot undo a half-made pod; it is listed, remove it");
    }
    lose(pods, pod);
}

async fn adopt(pods: &Pods, pod: Arc<Pod>) {
    match MonitorLink::connect(&pods.shared.layout.socket(&pod.id), CONNECT).await {
        Ok(link) => {
            if let Ok(network) = link.network().await {
                pod.set_netlink(Some(PodNetlink::new(network.netlink)));
            }
            pod.set_link(Some(link.clone()));
            pods.insert(&pod);
            pods.announce(PodEvent::Linked(pod.clone()));
            watch::watch(pods, &pod, link);
        }
        Err(error) => {
            tracing::error!(pod = %pod.id, name = %pod.config.name, %error, "the pod's monitor cannot be reached; the pod is not ready any more");
            lose(pods, &pod);
        }
    }
}

fn lose(pods: &Pods, pod: &Arc<Pod>) {
    pod.update_anyway(|record| {
        record.state = PodState::Lost;
        record.monitor_pid = None;
    });
    pods.insert(pod);
    pods.announce(PodEvent::Lost(pod.clone()));
}

fn pod_folders(layout: &Layout) -> io::Result<Vec<PodId>> {
    let mut ids = Vec::new();
    for entry in fs::read_dir(layout.pods_root())? {
        if let Ok(id) = PodId::parse(&entry?.file_name().to_string_lossy()) {
            ids.push(id);
        }
    }
    Ok(ids)
}

/// The server ended before it wrote the record, or after it removed it: either way nobody counts on
/// this pod, and nothing else of it can be there.
fn discard(layout: &Layout, id: &PodId) {
    match remove_folder(&layout.pod_root(id)) {
        Ok(()) => tracing::info!(pod = %id, "removed the folder of a pod without a record"),
        Err(error) => tracing::warn!(pod = %id, %error, "cannot remove the folder of a pod without a record"),
    }
}

/// A record that cannot be used stays for people to look at, out of the way.
fn set_aside(layout: &Layout, id: &PodId, why: &str) {
    let (from, to) = (layout.pod_root(id), layout.set_aside(id));
    match fs::rename(&from, &to) {
        Ok(()) => tracing::warn!(pod = %id, why, kept = %to.display(), "set a pod's record aside"),
        Err(error) => tracing::error!(pod = %id, why, %error, "cannot set a pod's record aside"),
    }
}

/// Volatile folders whose pod has no record any more.
fn remove_ownerless(pods: &Pods) -> io::Result<()> {
    for entry in fs::read_dir(pods.shared.layout.pods_state())? {
        let entry = entry?;
        let known =
            PodId::parse(&entry.file_name().to_string_lossy()).is_ok_and(|id| pods.get(&id).is_some());
        if !known && let Err(error) = remove_folder(&entry.path()) {
            tracing::warn!(%error, "cannot remove what is left of a pod");
        }
    }
    Ok(())
}
