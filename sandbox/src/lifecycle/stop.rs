//! Stopping: the pod gives back what it holds and keeps its record.

use crate::error::PodError;
use crate::lifecycle::teardown::teardown;
use crate::pod::{Pod, PodState};
use crate::pods::{PodEvent, Pods};

/// See [`Pods::stop`].
pub(crate) async fn stop(pods: &Pods, pod: &std::sync::Arc<Pod>) -> Result<(), PodError> {
    if pod.status().state == PodState::Stopped {
        return Ok(());
    }
    let failures = teardown(pods, pod, "stop_pod").await;
    if !failures.is_empty() {
        return Err(PodError::Teardown { operation: "stop_pod", pod: pod.id.clone(), failures });
    }
    pod.update_anyway(|record| {
        record.state = PodState::Stopped;
        record.monitor_pid = None;
    });
    pods.announce(PodEvent::Stopped(pod.clone()));
    Ok(())
}
