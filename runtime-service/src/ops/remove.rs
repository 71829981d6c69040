//! RemoveContainer: after it nothing on the machine tells that the container ever was.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use super::create::remove_folder;
use super::start::remove_cgroup;
use crate::container::Container;
use crate::core::Core;
use crate::error::RuntimeError;
use crate::events::Kind;
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
pub async fn remove(core: &Arc<Core>, container: Arc<Container>) -> Result<(), RuntimeError> {
    let owned = core.clone();
    let id = container.id().clone();
    core.removes.run(id, move || async move { remove_once(&owned, &container).await }).await
}

async fn remove_once(core: &Arc<Core>, container: &Arc<Container>) -> Result<(), RuntimeError> {
    if core.containers.get(container.id()).is_none() {
        return Ok(()); // another removal was faster
    }
    super::stop::stop(core, container.clone(), Duration::ZERO).await?;
    tell_monitor(core, container).await;
    delete(core, container).await.map_err(|failure| {
        let subject = format!("container {}", container.id());
        Failure { subject, operation: OPERATION, failure, undo: vec![] }
    })?;
    container.lease.lock().unwrap_or_else(PoisonError::into_inner).take();
    core.containers.remove(container.id());
    core.events.tell(Kind::Deleted, container.id().as_str(), &container.facts.pod);
    Ok(())
}

/// The monitor may forget how it ended. One that does not listen ends with its pod.
async fn tell_monitor(core: &Core, container: &Container) {
    let Some(link) = core.pod_of(container).and_then(|pod| pod.link().ok()) else { return };
    if let Err(error) = link.within(FORGET).forget(container.id()).await {
        tracing::debug!(container = %container.id(), %error, "the monitor did not forget a container");
    }
}

async fn delete(core: &Arc<Core>, container: &Arc<Container>) -> Result<(), StageFailure> {
    let (owned, container) = (core.clone(), container.clone());
    let work = move |steps: &Steps| {
        if let Some(pod) = owned.pod_of(&container) {
            steps.step("cgroup", || remove_cgroup(&owned, &container, &pod))?;
        }
        steps.step("files", || remove_folder(container.folder.path()))
    };
    core.stages(OPERATION).blocking(FILES, work).await
}
