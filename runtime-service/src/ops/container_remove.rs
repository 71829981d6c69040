//! RemoveContainer: after it nothing on the machine tells that the container ever was.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use super::container_create::remove_folder;
use super::container_start::remove_cgroup;
use crate::container::Container;
use crate::error::RuntimeError;
use crate::events::Kind;
use crate::service_state::ServiceState;
use crate::stage::{Failure, StageFailure, Steps};

const OPERATION: &str = "remove_container";
/// For a container that is still running.
const FORGET: Duration = Duration::from_secs(5);
/// Large writable layers take their time.
const FILES: Duration = Duration::from_secs(100);

/// Removes the container, killing it first if it runs, or joins its removal.
///
/// # Errors
/// The stage that failed; the container is still known and can be removed again.
pub async fn remove(service: &Arc<ServiceState>, container: Arc<Container>) -> Result<(), RuntimeError> {
    let owned = service.clone();
    let id = container.id().clone();
    service.removes.run(id, move || async move { remove_once(&owned, &container).await }).await
}

async fn remove_once(service: &Arc<ServiceState>, container: &Arc<Container>) -> Result<(), RuntimeError> {
    if service.containers.get(container.id()).is_none() {
        return Ok(()); // another removal was faster
    }
    super::container_stop::stop(service, container.clone(), Duration::ZERO).await?;
    tell_monitor(service, container).await;
    delete(service, container).await.map_err(|failure| {
        let subject = format!("container {}", container.id());
        Failure { subject, operation: OPERATION, failure, undo: vec![] }
    })?;
    container.lease.lock().unwrap_or_else(PoisonError::into_inner).take();
    service.containers.remove(container.id());
    service.events.emit(Kind::Deleted, container.id().as_str(), &container.metadata.pod);
    Ok(())
}

/// The monitor may forget how it ended. One that does not listen ends with its pod.
async fn tell_monitor(service: &ServiceState, container: &Container) {
    let Some(link) = service.pod_of(container).and_then(|pod| pod.link().ok()) else { return };
    if let Err(error) = link.within(FORGET).forget(container.id()).await {
        tracing::debug!(container = %container.id(), %error, "the monitor did not forget a container");
    }
}

async fn delete(service: &Arc<ServiceState>, container: &Arc<Container>) -> Result<(), StageFailure> {
    let (owned, container) = (service.clone(), container.clone());
    let work = move |steps: &Steps| {
        if let Some(pod) = owned.pod_of(&container) {
            steps.step("cgroup", || remove_cgroup(&owned, &container, &pod))?;
        }
        steps.step("files", || remove_folder(container.folder.path()))
    };
    service.stages(OPERATION).blocking(FILES, work).await
}
