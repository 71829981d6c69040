//! Removing: after it nothing on the machine tells that the pod ever was.

use std::sync::Arc;
use std::time::Duration;

use crate::error::PodError;
use crate::lifecycle::stop::stop;
use crate::pod::Pod;
use crate::pods::{PodEvent, Pods};
use crate::record::remove_folder;
use crate::stage::{blocking, stage};

const FILES: Duration = Duration::from_secs(30);

/// See [`Pods::remove`].
pub(crate) async fn remove(pods: &Pods, pod: &Arc<Pod>) -> Result<(), PodError> {
    if pods.get(&pod.id).is_none() {
        return Ok(()); // another remove was faster
    }
    stop(pods, pod).await?;
    let layout = &pods.shared.layout;
    let (state, root) = (layout.pod_state(&pod.id), layout.pod_root(&pod.id));
    // The record goes last: until then a crash leaves something that the next start knows about.
    let work = blocking(move || {
        remove_folder(&state)?;
        remove_folder(&root)?;
        Ok(())
    });
    if let Err(failure) = stage(&pods.shared.metrics, "remove_pod", "files", FILES, work).await {
        return Err(PodError::Teardown {
            operation: "remove_pod",
            pod: pod.id.clone(),
            failures: vec![failure],
        });
    }
    pods.forget(pod);
    pods.announce(PodEvent::Removed(pod.clone()));
    Ok(())
}
