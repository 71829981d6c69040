//! Commit: makes an image of a container's image and the container's changes.
//!
//! ```text
//!   pause (if it runs) ─> archive of the upper folder ─> layer, configuration, image ─> unpause
//! ```
//!
//! A container never stays paused, neither when the client leaves nor when the server ends: the next server
//! unpauses it. If the container is resumed meanwhile, the commit fails, because its files would be of
//! different moments.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crisp_executor::user_namespace::IdMappings;
use crisp_image_service::archive::{Changes, Content};
use crisp_image_service::store::StoreError;
use crisp_image_service::{ImageId, Reference};
use crisp_operation::{Cancel, detached};

use super::{container_pause, container_spec};
use crate::cause::{Cause, Operation, Steps};
use crate::container::Container;
use crate::container::status::Status;
use crate::error::RuntimeError;
use crate::service_state::{ServiceState, subject};

const OPERATION: &str = "commit_container";
const DEADLINE: Duration = Duration::from_secs(3600);
/// Time limit for unpausing the container before the client gets its response.
const UNPAUSED: Duration = Duration::from_secs(20);
/// The id for owners that do not exist in the pod's user namespace.
const NO_USER: u32 = 65_534;

/// The parameters of the new image.
#[derive(Debug)]
pub struct Commit {
    pub tag: Option<Reference>,
    pub changes: Changes,
    /// Whether a running container is paused meanwhile.
    pub pause: bool,
}

/// Makes the image and returns its id. If the caller leaves, the commit is cancelled and the container
/// continues.
///
/// # Errors
/// The container's image is gone, a change is not valid, files cannot be read or stored, or the container was
/// resumed meanwhile.
pub async fn commit(
    service: &Arc<ServiceState>,
    container: Arc<Container>,
    commit: Commit,
) -> Result<ImageId, RuntimeError> {
    let cancel = Cancel::new();
    let _caller = Caller(cancel.clone());
    detached(commit_once(service.clone(), container, commit, cancel)).await
}

/// Cancels the commit when the client has left.
struct Caller(Cancel);

impl Drop for Caller {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

async fn commit_once(
    service: Arc<ServiceState>,
    container: Arc<Container>,
    commit: Commit,
    cancel: Cancel,
) -> Result<ImageId, RuntimeError> {
    let status = container.status();
    let pauses = commit.pause && status.state.pid().is_some() && !status.paused;
    if pauses {
        container_pause::pause_for_commit(&service, container.clone()).await?;
    }
    let subject = subject(container.id());
    let operation = Operation::cancelled_by(&service.metrics, OPERATION, subject, cancel);
    let made = {
        let still = (pauses || status.paused).then_some(pauses);
        let (service, container) = (service.clone(), container.clone());
        let work =
            move |steps: &Steps| steps.step("image", || image(&service, &container, commit, still, steps));
        operation.blocking(DEADLINE, work).await
    };
    if pauses {
        // In its own task, so that a slow unpause does not delay the response to the client.
        let unpaused = tokio::spawn(container_pause::end_commit(service, container));
        let _ = tokio::time::timeout(UNPAUSED, unpaused).await;
    }
    Ok(operation.finish(made).await?)
}

/// `still`: whether the container is paused meanwhile, and if so, whether for this commit.
fn image(
    service: &ServiceState,
    container: &Container,
    commit: Commit,
    still: Option<bool>,
    steps: &Steps,
) -> Result<ImageId, Cause> {
    let metadata = &container.metadata;
    let broken = || Cause::LayersGone { image: metadata.image.name.clone() };
    let id = ImageId::parse(&metadata.image.id).map_err(|_| broken())?;
    let below = service.images.image(&id).ok_or(StoreError::ImageMissing(id))?;
    let hidden: BTreeSet<PathBuf> = container_spec::mount_places(metadata).into_iter().collect();
    let users = service.pod_of(container).and_then(|pod| pod.config.user.clone());
    let content = Content {
        skip: &|path| hidden.contains(&Path::new("/").join(OsStr::from_bytes(path))),
        owner: &|uid, gid| owner(users.as_ref(), uid, gid),
        check: &|| {
            let moved = still.is_some_and(|by_commit| !stands_still(&container.status(), by_commit));
            if moved {
                Err(io::Error::other(Cause::Moved))
            } else {
                steps.cancel().check().map_err(io::Error::other)
            }
        },
        implied: &|_| false,
    };
    let tree = (container.folder.upper(), content);
    let created_by = format!("crisp commit of {}", metadata.config.name);
    let image = service.images.commit_tree(
        &below,
        (tree.0.as_path(), &tree.1),
        commit.tag,
        &commit.changes,
        &created_by,
    );
    match image {
        Ok(image) => Ok(image.id.clone()),
        Err(_) if still.is_some_and(|by_commit| !stands_still(&container.status(), by_commit)) => {
            Err(Cause::Moved)
        }
        Err(error) => Err(Box::new(error).into()),
    }
}

/// Whether the container is still paused: a stop, a kill or an unpause resumes it.
fn stands_still(status: &Status, by_commit: bool) -> bool {
    status.paused && status.committing == by_commit
}

/// The owner inside the container.
fn owner(users: Option<&IdMappings>, uid: u32, gid: u32) -> (u32, u32) {
    match users {
        None => (uid, gid),
        Some(users) => {
            (users.container_uid(uid).unwrap_or(NO_USER), users.container_gid(gid).unwrap_or(NO_USER))
        }
    }
}
