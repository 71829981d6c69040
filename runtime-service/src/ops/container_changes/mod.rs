//! The files that a container has changed: compares the upper folder of its overlay with the layers.
//!
//! | in `upper` | change |
//! |---|---|
//! | character device 0:0 | deleted |
//! | directory marked opaque | entries of the layers that `upper` lacks are deleted |
//! | anything else that the layers have | modified |
//! | anything else | added |
//!
//! Mount points are left out, and so are directories whose only changes are left out.

mod walk;

use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use crisp_executor::rootfs;
use rustix::fs::{Mode, OFlags};
use tokio::sync::mpsc;

use self::walk::{Unfinished, Walk};
use super::container_spec;
use crate::cause::{Cause, StageFailure, Steps};
use crate::container::Container;
use crate::error::RuntimeError;
use crate::pieces::{CLIENT, Pieces, Undelivered};
use crate::service_state::{MAX_COPIES, ServiceState};

const OPERATION: &str = "list_changes";
const OPEN: Duration = Duration::from_secs(20);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Modified,
    Added,
    Deleted,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Absolute, in the container.
    pub path: PathBuf,
    pub kind: Kind,
}

/// Some changes, or the error that ends the list.
pub type Piece = Result<Vec<Change>, RuntimeError>;

/// Reads all changes, directory by directory, each sorted by name; directories with very many names are in the
/// kernel's order. It counts as a copy of files.
///
/// # Errors
/// The layers are gone, or too many copies are under way. Later failures are the last piece.
pub async fn changes(
    service: &Arc<ServiceState>,
    container: Arc<Container>,
) -> Result<mpsc::Receiver<Piece>, RuntimeError> {
    let permit = service.copies.clone().try_acquire_owned();
    let permit = permit.map_err(|_| RuntimeError::Copies { most: MAX_COPIES })?;
    let id = container.id().clone();
    let operation = service.operation(OPERATION, &id);
    let opened = operation.blocking(OPEN, move |steps| open(&container, steps)).await;
    let mut walk = operation.finish(opened).await?;
    let (pieces, receiver) = Pieces::channel();
    tokio::task::spawn_blocking(move || {
        let last = match walk.run(&|piece| pieces.send(Ok(piece))) {
            Ok(rest) => Ok(rest),
            Err(Unfinished::Kernel(errno)) => Err(RuntimeError::Changes { id, errno }),
            Err(Unfinished::Client(Undelivered::Slow)) => Err(RuntimeError::SlowClient { after: CLIENT }),
            Err(Unfinished::Client(Undelivered::Gone)) => return,
        };
        pieces.end(last);
        drop(permit);
    });
    Ok(receiver)
}

/// Opens the two trees, without a mount of the host's.
fn open(container: &Container, steps: &Steps) -> Result<Walk, StageFailure> {
    let layers = steps.step("layers", || {
        let leases = container.leases.lock().unwrap_or_else(PoisonError::into_inner);
        let gone = || Cause::LayersGone { image: container.metadata.image.name.clone() };
        let lease = leases.as_ref().and_then(|leases| leases.root.as_ref()).ok_or_else(gone)?;
        Ok(rootfs::read_only_view(lease.layer_paths(), None)?)
    })?;
    let path = container.folder.upper();
    let upper = steps.step("upper", || {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::open(&path, flags, Mode::empty()).map_err(|errno| Cause::file(&path)(errno.into()))
    })?;
    let hidden = container_spec::mount_places(&container.metadata).into_iter().collect();
    Ok(Walk::new(upper, layers, hidden))
}
