//! Records the resources of a whole pod. If the client named the pod's cgroup, the client sets its limits;
//! otherwise they are set here.

use std::sync::Arc;
use std::time::Duration;

use crisp_operation::{Operation, Steps};

use crate::error::{PodCause, PodError, StageFailure};
use crate::pod::Pod;
use crate::pod::resources::PodResources;
use crate::service_state::ServiceState;

pub(crate) const OPERATION: &str = "update_pod";
const DEADLINE: Duration = Duration::from_secs(15);

/// See [`Pods::update`](crate::Pods::update).
pub(crate) async fn update(
    service: &Arc<ServiceState>,
    pod: &Arc<Pod>,
    newer: PodResources,
) -> Result<(), PodError> {
    let mut operation = Operation::new(&service.metrics, OPERATION, format!("pod {}", pod.id));
    let turn = operation.turn(service.lock(&pod.id, OPERATION)).await?;
    operation.hold(turn);
    let (service, pod) = (service.clone(), pod.clone());
    let work = move |steps: &Steps<PodCause>| apply(&service, &pod, &newer, steps);
    let result = operation.blocking(DEADLINE, work).await;
    Ok(operation.finish(result).await?)
}

fn apply(
    service: &ServiceState,
    pod: &Pod,
    newer: &PodResources,
    steps: &Steps<PodCause>,
) -> Result<(), StageFailure> {
    let status = pod.status();
    let resources = status.resources.updated(newer);
    steps.step("state", || Ok(status.with_resources(resources.clone()).map(drop)?))?;
    if pod.config.cgroup_parent.is_none() {
        // Before the first container it is not in every hierarchy yet.
        let create = || Ok(pod.create_cgroup(&service.cgroups, pod.cgroup_parent())?);
        let cgroup = steps.step("cgroup", create)?;
        let (again, before) = (cgroup.clone(), status.resources.clone());
        // A failed change may have set some of the limits.
        steps.undo("limits", move || Ok(again.apply(&before.total_or_unlimited())?));
        steps.step("limits", || Ok(cgroup.apply(&resources.total())?))?;
    }
    steps.step("record", || {
        pod.status.update(|status| status.with_resources(resources.clone()))?;
        Ok(())
    })
}
