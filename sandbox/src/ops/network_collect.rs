//! Gives back networks of pods that are no more: when the server starts, and every few minutes.

use std::collections::BTreeSet;
use std::io;

use crisp_executor::ids::PodId;

use super::pod_recover::pod_ids;
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

/// The pods that may have a network. One that is being made, or whose monitor has not answered yet, is not
/// listed: it has a folder.
fn live(service: &ServiceState) -> io::Result<BTreeSet<PodId>> {
    let folders = pod_ids(&service.layout)?;
    let mut live: BTreeSet<PodId> =
        folders.into_iter().filter(|id| service.table.get(id).is_none()).collect();
    // Last: those that were listed meanwhile are among them.
    let pods = service.table.list();
    live.extend(pods.iter().filter(|pod| !pod.status().state.is_torn_down()).map(|pod| pod.id.clone()));
    Ok(live)
}
