//! Takes down all that a pod may hold, in whatever state it is. Every step runs, also after
//! another failed; each has its own deadline and may find its work already done.

use std::time::Duration;

use crisp_executor::cgroup::{CgroupError, CgroupPath};

use crate::error::{StageCause, StageFailure};
use crate::pod::Pod;
use crate::pods::{Pods, PodsInner};
use crate::stage::{blocking, stage};

const MONITOR: Duration = Duration::from_secs(10);
const CGROUP: Duration = Duration::from_secs(10);
/// Above the deadline that a CNI plugin gets.
const NETWORK: Duration = Duration::from_secs(60);

/// Ends the monitor with all its processes, removes the pod's cgroup, gives back its network.
///
/// # Errors
/// The steps that failed; none means that nothing of the pod is left but its record.
pub(crate) async fn teardown(pods: &Pods, pod: &Pod, operation: &'static str) -> Vec<StageFailure> {
    let inner = &pods.shared;
    let mut failures = Vec::new();
    if let Err(failure) = stage(&inner.metrics, operation, "monitor", MONITOR, end_monitor(inner, pod)).await
    {
        failures.push(failure);
    }
    // Addresses last: they may not be given to another pod while a process of this one could use them.
    if let Err(failure) = stage(&inner.metrics, operation, "network", NETWORK, detach(inner, pod)).await {
        failures.push(failure);
    }
    if let Err(failure) = stage(&inner.metrics, operation, "cgroup", CGROUP, remove_cgroups(inner, pod)).await
    {
        failures.push(failure);
    }
    failures
}

async fn end_monitor(inner: &PodsInner, pod: &Pod) -> Result<(), StageCause> {
    if let Some(link) = pod.any_link() {
        match link.shutdown(true).await {
            Ok(()) => {
                pod.set_link(None);
                return Ok(());
            }
            Err(error) => tracing::debug!(pod = %pod.id, %error, "monitor does not answer; killing it"),
        }
    }
    // Everything the monitor started is in cgroups of its own or dies with its PID namespace; the
    // monitor itself is in the pod's.
    let (cgroups, path) = (inner.cgroups.clone(), own_cgroup(pod)?);
    blocking(move || match cgroups.open(&path) {
        Ok(cgroup) => Ok(cgroup.kill()?),
        Err(CgroupError::NotFound { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    })
    .await?;
    pod.set_link(None);
    Ok(())
}

async fn detach(inner: &PodsInner, pod: &Pod) -> Result<(), StageCause> {
    inner.networks.detach(&pod.id).await?;
    Ok(())
}

async fn remove_cgroups(inner: &PodsInner, pod: &Pod) -> Result<(), StageCause> {
    let (cgroups, own) = (inner.cgroups.clone(), own_cgroup(pod)?);
    // A parent that was asked for is its owner's, and may hold others.
    let parent = pod.config.cgroup_parent.is_none().then(|| pod.cgroup_parent().clone());
    blocking(move || {
        cgroups.remove(&own)?;
        if let Some(parent) = parent {
            cgroups.remove(&parent)?;
            // Shared by all pods without a parent; it stays while there are others.
            if let Some(top) = parent.parent() {
                cgroups.remove_if_empty(&top)?;
            }
        }
        Ok(())
    })
    .await
}

/// The cgroup of the monitor and of the pod's PID 1.
pub(crate) fn own_cgroup(pod: &Pod) -> Result<CgroupPath, StageCause> {
    pod.cgroup_parent().child(pod.id.as_str()).map_err(|e| StageCause::Cgroup(e.into()))
}
