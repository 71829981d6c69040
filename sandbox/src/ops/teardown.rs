//! The steps that tear a pod down, in any state. Each may find its work already done.

use std::sync::Arc;
use std::time::Duration;

use crisp_executor::cgroup::CgroupError;
use crisp_operation::Operation;
use crisp_operation::record::remove_folder;

use super::{monitor_process, pod_joined};
use crate::error::{PodCause, PodError, StageFailure};
use crate::pod::Pod;
use crate::pod::state::PodStatus;
use crate::service_state::{PodEvent, ServiceState};
use crate::systemd;

/// Time limit for the monitor to end itself with all its processes, and then again by force.
const MONITOR: Duration = Duration::from_secs(15);
const SHUT_DOWN: Duration = Duration::from_secs(5);
const CGROUP: Duration = Duration::from_secs(10);
const FILES: Duration = Duration::from_secs(30);

/// Stops the pod: ends the monitor with all its processes, detaches the network, removes the cgroups. Every
/// step runs, even after another failed.
///
/// # Errors
/// The steps that failed; without any, only the record of the pod is left.
pub(crate) async fn take_down(
    service: &Arc<ServiceState>,
    pod: &Arc<Pod>,
    operation: &Operation<PodCause>,
) -> Vec<StageFailure> {
    if pod.status().state.is_torn_down() {
        // The server may have ended after it recorded the stop and before the interface was deleted.
        return detach(service, pod, operation).await.err().into_iter().collect();
    }
    // Not written: a starting server finds out how far this came.
    let _ = pod.status.show(PodStatus::stopping);
    let mut failures = Vec::new();
    failures.extend(end_monitor(service, pod, operation).await.err());
    // Addresses are released after the processes that could use them have ended.
    failures.extend(detach(service, pod, operation).await.err());
    failures.extend(remove_cgroups(service, pod, operation).await.err());
    if failures.is_empty() && pod.status.observe(PodStatus::stopped).is_ok() {
        service.emit(PodEvent::Stopped(pod.clone()));
    }
    failures
}

/// Finishes an operation of several steps that all ran.
///
/// # Errors
/// The steps that failed.
pub(crate) async fn end(
    operation: Operation<PodCause>,
    name: &'static str,
    pod: &Pod,
    failures: Vec<StageFailure>,
) -> Result<(), PodError> {
    let mut failures = failures.into_iter();
    let Some(first) = failures.next() else {
        return Ok(operation.finish(Ok(())).await?);
    };
    // Waits for a step whose thread hangs: it keeps the pod's lock until it ends.
    match operation.finish::<()>(Err(first)).await {
        Ok(()) => Ok(()),
        Err(failure) => {
            let failures = std::iter::once(failure.failure).chain(failures).collect();
            Err(PodError::Teardown { operation: name, pod: pod.id.clone(), failures })
        }
    }
}

async fn end_monitor(
    service: &Arc<ServiceState>,
    pod: &Arc<Pod>,
    operation: &Operation<PodCause>,
) -> Result<(), StageFailure> {
    let work = |stage: crisp_operation::Stage<PodCause>| async move {
        if !shut_down(pod).await {
            let (service, pod) = (service.clone(), pod.clone());
            stage.blocking(move |_| kill(&service, &pod)).await?;
        }
        pod.disconnect();
        Ok(())
    };
    operation.stage("monitor", MONITOR, work).await
}

async fn detach(
    service: &Arc<ServiceState>,
    pod: &Pod,
    operation: &Operation<PodCause>,
) -> Result<(), StageFailure> {
    let work = |_| async {
        pod_joined::forget_addresses(service, &pod.id);
        Ok(service.networks.detach(&pod.id).await?)
    };
    operation.stage("network", service.networks.time_of_detach(&pod.id), work).await
}

async fn remove_cgroups(
    service: &Arc<ServiceState>,
    pod: &Arc<Pod>,
    operation: &Operation<PodCause>,
) -> Result<(), StageFailure> {
    blocking("cgroup", CGROUP, remove_pod_cgroups, service, pod, operation).await
}

/// Removes the pod's folders, the record last: until then a crash leaves a record for the next server.
pub(crate) async fn remove_files(
    service: &Arc<ServiceState>,
    pod: &Arc<Pod>,
    operation: &Operation<PodCause>,
) -> Result<(), StageFailure> {
    blocking("files", FILES, remove_pod_files, service, pod, operation).await
}

/// A stage of blocking work.
async fn blocking(
    stage: &'static str,
    deadline: Duration,
    work: fn(&ServiceState, &Pod) -> Result<(), PodCause>,
    service: &Arc<ServiceState>,
    pod: &Arc<Pod>,
    operation: &Operation<PodCause>,
) -> Result<(), StageFailure> {
    let (service, pod) = (service.clone(), pod.clone());
    let work = |stage: crisp_operation::Stage<PodCause>| async move {
        stage.blocking(move |_| work(&service, &pod)).await
    };
    operation.stage(stage, deadline, work).await
}

/// Requests that the monitor ends with all its processes. Returns false when that needs force.
pub(crate) async fn shut_down(pod: &Pod) -> bool {
    let Ok(link) = pod.link() else { return false };
    match tokio::time::timeout(SHUT_DOWN, link.shutdown(true)).await {
        Ok(Ok(())) => true,
        Ok(Err(error)) => {
            tracing::debug!(pod = %pod.id, %error, "cannot ask the monitor to end; killing it");
            false
        }
        Err(_) => {
            tracing::warn!(pod = %pod.id, after = ?SHUT_DOWN, "the monitor does not end; killing it");
            false
        }
    }
}

/// Kills the monitor, everything else in the pod's own cgroup, and the processes that the monitor started.
/// Blocks.
pub(crate) fn kill(service: &ServiceState, pod: &Pod) -> Result<(), PodCause> {
    // A container whose record cannot be used is in an unknown cgroup.
    let children = monitor_process::children(&pod.id);
    // All of it, even if a part fails: the children cannot be found once the monitor has ended.
    let own = match service.cgroups.open(&pod.own_cgroup()?) {
        Ok(cgroup) => cgroup.kill(),
        Err(CgroupError::NotFound { .. }) => Ok(()),
        Err(error) => Err(error),
    };
    let monitor = monitor_process::kill(&pod.id);
    let children: Vec<_> = children.iter().map(monitor_process::kill_child).collect();
    own?;
    monitor?;
    Ok(children.into_iter().collect::<Result<_, _>>()?)
}

/// Blocks.
pub(crate) fn remove_pod_cgroups(service: &ServiceState, pod: &Pod) -> Result<(), PodCause> {
    if let Some(scope) = pod.scope() {
        return Ok(systemd::empty_scope(&service.cgroups, scope)?);
    }
    service.cgroups.remove(&pod.own_cgroup()?)?;
    // A parent that the client named belongs to the client, and may contain others.
    if pod.config.cgroup_parent.is_none() {
        service.cgroups.remove(pod.cgroup_parent())?;
        service.top_cgroup.remove_later(&service.cgroups);
    }
    Ok(())
}

/// Blocks.
pub(crate) fn remove_pod_files(service: &ServiceState, pod: &Pod) -> Result<(), PodCause> {
    pod.status.close();
    remove_folder(&service.layout.pod_state(&pod.id))?;
    remove_folder(&service.layout.pod_root(&pod.id))?;
    Ok(())
}
