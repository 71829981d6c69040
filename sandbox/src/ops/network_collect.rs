//! Gives back networks of pods that are no more: when the server starts, and every few minutes.

use std::collections::BTreeSet;
use std::io;
use std::sync::PoisonError;

use crisp_executor::ids::PodId;

use crate::network::Networks;
use crate::service_state::ServiceState;

/// The pods that have a network and are not listed, or are listed as stopped: an earlier server, or this one,
/// could not detach them in time.
pub(crate) fn stale(service: &ServiceState) -> Vec<PodId> {
    // First: a pod gets its folder before its network, and keeps it for longer.
    let recorded = service.networks.recorded();
    match live(service) {
        Ok(live) => recorded.into_iter().filter(|pod| !live.contains(pod)).collect(),
        Err(error) => {
            tracing::warn!(%error, "cannot tell which pods are no more; their networks stay for now");
            Vec::new()
        }
    }
}

/// Detaches these pods, and makes plugins free what belongs to no pod. Waits for plugins; other pods do not
/// wait for it.
pub(crate) async fn give_back(networks: &Networks, stale: Vec<PodId>) {
    match networks.collect(stale).await {
        Ok(gone) if gone.is_empty() => {}
        Ok(gone) => tracing::info!(count = gone.len(), "gave back networks of pods that are no more"),
        Err(error) => tracing::warn!(%error, "cannot give back all networks of pods that are no more"),
    }
}

/// The pods that may have a network. One that is being made, or whose monitor has not answered yet, may not be listed:
/// it has a folder.
fn live(service: &ServiceState) -> io::Result<BTreeSet<PodId>> {
    let mut live = service.layout.pod_ids()?;
    live.extend(service.recovering.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned());
    // One look: the entry of a pod that is found again is replaced.
    for pod in service.table.list() {
        if pod.status().state.is_torn_down() {
            live.remove(&pod.id);
        } else {
            live.insert(pod.id.clone());
        }
    }
    Ok(live)
}
