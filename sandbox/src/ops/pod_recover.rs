//! Finds the pods of an earlier server from their records, and reconnects to their monitors, all in parallel.
//! Nothing here keeps the server from starting.
//!
//! ```text
//!   record         monitor      becomes
//!   Starting       any          undone and removed; listed as Failed until that has succeeded
//!   Ready          answers      Ready
//!                  silent       Unknown, and reaching it goes on in the background
//!                  ended        Lost
//!   Failed, Lost, Stopped ...   as recorded
//!   unreadable     any          see [`pod_unreadable`]
//! ```

use std::io;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use crisp_executor::ids::PodId;
use crisp_operation::record::private_folder;
use tokio::task::JoinSet;

use super::monitor_probe::{ANSWER, Probe, probe};
use super::{network_collect, network_upkeep, pod_remove, pod_unreadable, pod_watch};
use crate::pod::Pod;
use crate::pod::record::PodRecord;
use crate::pod::state::PodState;
use crate::service_state::ServiceState;

/// Time limit for all pods together. The rest continues while the server serves.
const START: Duration = Duration::from_secs(10);
const NETWORKS: Duration = Duration::from_secs(2);

/// Finds the pods of an earlier server.
///
/// # Errors
/// Only when the folders themselves cannot be made or read.
pub(crate) async fn recover(service: &Arc<ServiceState>) -> io::Result<()> {
    private_folder(&service.layout.pods_root())?;
    private_folder(&service.layout.pods_state())?;
    // Without those that this start sets aside.
    pod_unreadable::delete_surplus(&service.layout)?;
    let mut tasks = JoinSet::new();
    for id in service.layout.pod_ids()? {
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

/// Lists the pod from its record; steps that wait for its monitor become `tasks`.
fn load(service: &Arc<ServiceState>, id: PodId, tasks: &mut JoinSet<()>) {
    let service = service.clone();
    match PodRecord::load(&service.layout, &id) {
        Ok(record) => {
            let (pod, next) = list(&service, record);
            tasks.spawn(async move { take_up(&service, &pod, next).await });
        }
        Err(error) => {
            let recovering = Recovering::begin(&service, &id);
            tasks.spawn(async move {
                let _recovering = recovering;
                if let Some((record, lock)) = pod_unreadable::recover(&service, &id, error).await {
                    let (pod, next) = list(&service, record);
                    drop(lock);
                    take_up(&service, &pod, next).await;
                }
            });
        }
    }
}

/// A pod without a usable record, until it is listed or cleared away: nothing of it is without an owner meanwhile.
struct Recovering {
    service: Arc<ServiceState>,
    id: PodId,
}

impl Recovering {
    fn begin(service: &Arc<ServiceState>, id: &PodId) -> Self {
        service.recovering.lock().unwrap_or_else(PoisonError::into_inner).insert(id.clone());
        Self { service: service.clone(), id: id.clone() }
    }
}

impl Drop for Recovering {
    fn drop(&mut self) {
        self.service.recovering.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
    }
}

/// The next step for a pod of an earlier server.
enum Next {
    Nothing,
    UndoStart,
    Adopt,
    /// It is from an earlier boot.
    Lost,
}

/// Replaces the placeholder for a pod whose record could not be read before.
fn list(service: &ServiceState, record: PodRecord) -> (Arc<Pod>, Next) {
    let this_boot = record.metadata.is_of_this_boot();
    let pod = Pod::new(&service.layout, record);
    if let Some(before) = service.table.get(&pod.id) {
        service.table.remove(&before);
    }
    service.table.insert(&pod);
    network_upkeep::adopt(service, &pod);
    let state = pod.status().state.clone();
    let next = if state == PodState::Starting {
        let why = "the server ended while it made the pod".to_owned();
        let _ = pod.status.show(|status| status.failed(why));
        Next::UndoStart
    } else if state.may_run() && this_boot {
        let why = "the server has started and has not reached the monitor yet".to_owned();
        let _ = pod.status.show(|status| status.silent(why));
        Next::Adopt
    } else if state.may_run() {
        Next::Lost
    } else {
        Next::Nothing
    };
    (pod, next)
}

async fn take_up(service: &Arc<ServiceState>, pod: &Arc<Pod>, next: Next) {
    match next {
        Next::Nothing => {}
        Next::UndoStart => undo_start(service, pod).await,
        Next::Adopt => adopt(service, pod).await,
        Next::Lost => pod_watch::lost(service, pod),
    }
}

/// The client never got this pod's id, so it will not remove it.
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

/// A plugin that hangs does not keep the server from starting.
async fn give_back_networks(service: &ServiceState) {
    let stale = network_collect::stale(service);
    let given_back = network_collect::give_back(&service.networks, stale);
    if tokio::time::timeout(NETWORKS, given_back).await.is_err() {
        tracing::warn!(after = ?NETWORKS, "giving back networks of pods that are no more takes long");
    }
}
