//! Copies files into and out of a container, running or not, without a program of its image.
//!
//! ```text
//!   running      /proc/PID/root: as its first process sees it, with all its mounts
//!   not running  out: its files above the layers, read only; it may be started or removed meanwhile
//!                in:  the root file system put together again, without its mounts; no start comes between,
//!                     and its removal ends the copy
//! ```
//!
//! The server does it, not the command line: it knows the container's layers and orders operations on a
//! container. Permission to use its socket is sufficient.
//!
//! Each copy runs in its own thread, because a file may be on a volume that hangs.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use crisp_copy::{CopyError, Destination, Owner, Root, Unpacked};
use crisp_executor::rootfs::{self, RootfsError};
use crisp_executor::user_namespace::{IdMappings, UserNamespace};
use crisp_operation::{Cancel, KeyedGuard, detached, record};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::{container_prepare, container_root, container_spec};
use crate::cause::Cause;
use crate::container::Container;
use crate::error::RuntimeError;
use crate::pieces::CLIENT;
use crate::service_state::{MAX_COPIES, ServiceState};

const OPERATION: &str = "copy_files";
/// Time limit for another operation on the container.
const LOCK: Duration = Duration::from_secs(30);
const ROOT: Duration = Duration::from_secs(20);
/// Bytes of one piece.
const PIECE: usize = 64 << 10;
/// Pieces that wait for the client.
const AHEAD: usize = 4;

/// A piece of an archive, or the error that ends it.
pub type Piece = Result<Vec<u8>, RuntimeError>;

/// The destination of an archive.
#[derive(Debug)]
pub struct Target {
    pub path: String,
    /// The path is a directory for all entries of the archive, which keep their names.
    pub as_named: bool,
    pub owner: Owner,
}

/// The source of an archive.
#[derive(Debug)]
pub struct Source {
    pub path: String,
    /// Follow a symbolic link at the path.
    pub follow_link: bool,
    /// Only the container's own files, even if it runs.
    pub without_mounts: bool,
}

/// Reads a path as a tar archive.
///
/// # Errors
/// The container is in a state without files. Later failures are the last piece.
pub async fn copy_out(
    service: &Arc<ServiceState>,
    container: &Arc<Container>,
    from: Source,
) -> Result<mpsc::Receiver<Piece>, RuntimeError> {
    let direction = if from.without_mounts { Direction::OutOfLayers } else { Direction::Out };
    let open = OpenRoot::detached(service, container, direction).await?;
    let (sender, receiver) = mpsc::channel(AHEAD);
    let (id, client) = (container.id().clone(), Client::of(&open));
    start_thread(container, move || {
        let mut pieces = Pieces { sender, client, piece: Vec::new() };
        let packed = crisp_copy::pack(&open.root, &from.path, from.follow_link, &mut pieces);
        let packed = packed.and_then(|()| pieces.flush().map_err(CopyError::Archive));
        if let Err(error) = packed {
            // If the client does not receive this either, it is gone.
            let _ = pieces.send(Err(RuntimeError::Copy { id, error }));
        }
    })?;
    Ok(receiver)
}

/// Writes the files of an archive; `read` makes its reader from the client.
///
/// # Errors
/// The container is in a state without files, or a file cannot be written; files before it are kept.
pub async fn copy_in<R: Read>(
    service: &Arc<ServiceState>,
    container: &Arc<Container>,
    target: Target,
    read: impl FnOnce(Client) -> R + Send + 'static,
) -> Result<Unpacked, RuntimeError> {
    let open = OpenRoot::detached(service, container, Direction::In).await?;
    let (sender, unpacked) = tokio::sync::oneshot::channel();
    let client = Client::of(&open);
    start_thread(container, move || {
        let Target { path, as_named, owner } = &target;
        let to = if *as_named { Destination::Into(path) } else { Destination::Named(path) };
        let unpacked = crisp_copy::unpack(read(client), &open.root, to, *owner);
        drop(open);
        let _ = sender.send(unpacked);
    })?;
    let gone = || CopyError::Archive(io::Error::other("the copying ended by a failure of the server"));
    let unpacked = unpacked.await.unwrap_or_else(|_| Err(gone()));
    unpacked.map_err(|error| RuntimeError::Copy { id: container.id().clone(), error })
}

fn start_thread(container: &Container, work: impl FnOnce() + Send + 'static) -> Result<(), RuntimeError> {
    let started = std::thread::Builder::new().name("crisp-copy".to_owned()).spawn(work);
    let failed =
        |source| RuntimeError::Copy { id: container.id().clone(), error: CopyError::Archive(source) };
    started.map(drop).map_err(failed)
}

/// Lets the thread of a copy wait for its client.
pub struct Client {
    handle: Handle,
    cancel: Cancel,
}

impl Client {
    fn of(open: &OpenRoot) -> Self {
        Self { handle: Handle::current(), cancel: open.cancel.clone() }
    }

    /// Waits for a piece, within the time limit for each.
    ///
    /// # Errors
    /// It took too long, or the copy must end.
    pub fn wait<T>(&self, piece: impl Future<Output = T>) -> io::Result<T> {
        let timed_out =
            |_| io::Error::new(io::ErrorKind::TimedOut, "the client neither sends nor takes anything");
        self.handle.block_on(async {
            tokio::select! {
                piece = tokio::time::timeout(CLIENT, piece) => piece.map_err(timed_out),
                () = self.cancel.cancelled() => Err(io::Error::other("the container is being removed")),
            }
        })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    In,
    Out,
    /// Copies out of the layers and the container's changes, whether it runs or not.
    OutOfLayers,
}

/// The root directory of a container while files are copied.
struct OpenRoot {
    root: Root,
    /// The work folder that the mount needs for writing, beside the container's own files.
    work: Option<PathBuf>,
    cancel: Cancel,
    _lock: Option<Arc<KeyedGuard>>,
    _permit: OwnedSemaphorePermit,
}

impl OpenRoot {
    /// If the client leaves meanwhile, the root is opened and dropped.
    async fn detached(
        service: &Arc<ServiceState>,
        container: &Arc<Container>,
        direction: Direction,
    ) -> Result<Self, RuntimeError> {
        let (service, container) = (service.clone(), container.clone());
        detached(async move { Self::of(&service, &container, direction).await }).await
    }

    async fn of(
        service: &Arc<ServiceState>,
        container: &Arc<Container>,
        direction: Direction,
    ) -> Result<Self, RuntimeError> {
        let id = container.id();
        let permit = service
            .copies
            .clone()
            .try_acquire_owned()
            .map_err(|_| RuntimeError::Copies { most: MAX_COPIES })?;
        let running = direction != Direction::OutOfLayers && container.status().state.pid().is_some();
        let lock = if running {
            None
        } else {
            let lock = service.locks.lock_within(id.clone(), OPERATION, LOCK).await;
            Some(Arc::new(lock.map_err(|busy| RuntimeError::Busy { id: id.clone(), busy })?))
        };
        // Reading is never interrupted.
        let (cancel, is_written) = (Cancel::new(), lock.is_some() && direction == Direction::In);
        if is_written {
            *container.written_by.lock().unwrap_or_else(PoisonError::into_inner) = cancel.clone();
        }
        let mut operation = service.operation(OPERATION, id);
        // A thread that hangs keeps the lock until it ends.
        operation.hold(lock.clone());
        let opened = {
            let (service, container) = (service.clone(), container.clone());
            let open = move || match running {
                true => of_process(&service, &container),
                false => put_together(&service, &container, direction),
            };
            operation.blocking(ROOT, move |steps| steps.step("root", open)).await
        };
        let (root, work) = operation.finish::<(Root, Option<PathBuf>)>(opened).await?;
        let lock = lock.filter(|_| is_written);
        Ok(Self { root, work, cancel, _lock: lock, _permit: permit })
    }
}

impl Drop for OpenRoot {
    fn drop(&mut self) {
        // The mount is dropped first, because it uses the folder.
        self.root = Root::Host;
        if let Some(work) = &self.work
            && let Err(error) = record::remove_folder(work)
        {
            tracing::warn!(%error, "cannot remove what copying left");
        }
    }
}

/// The root of the container's first process.
fn of_process(service: &ServiceState, container: &Container) -> Result<(Root, Option<PathBuf>), Cause> {
    let root = container_root::open(service, container.id())?;
    Ok((Root::Container { root, users: users(service, container) }, None))
}

/// A mount of the layers and the container's changes.
fn put_together(
    service: &ServiceState,
    container: &Container,
    direction: Direction,
) -> Result<(Root, Option<PathBuf>), Cause> {
    let state = &container.status().state;
    // A container that is being removed has no files.
    let is_in_use = direction != Direction::OutOfLayers && !state.is_idle();
    if is_in_use || state.removing().is_ok_and(|removing| removing == *state) {
        return Err(Cause::Refused(state.refuse("have files copied")));
    }
    let metadata = &container.metadata;
    if direction == Direction::In && metadata.config.security.readonly_rootfs {
        return Err(Cause::ReadOnlyRoot);
    }
    let users = users(service, container);
    // The pod's own namespace may be gone with its processes.
    let user = users.clone().map(UserNamespace::new).transpose().map_err(RootfsError::from)?;
    let user = user.as_ref().map(AsFd::as_fd);
    let (root, work) = match direction {
        Direction::In => {
            // Two mounts must not share the writable folder: the next start makes a new one, and a cgroup.
            if container_prepare::is_prepared(container) {
                container_prepare::discard(service, container)?;
            }
            writable(container, user)?
        }
        Direction::Out | Direction::OutOfLayers => {
            let root = rootfs::read_only(&layers(container)?, &container.folder.upper(), user)?;
            (root, None)
        }
    };
    let places = container_spec::mount_places(metadata);
    Ok((Root::stopped(root, users, places.iter().map(PathBuf::as_path))?, work))
}

/// The mappings of the pod's user namespace, if it has one.
fn users(service: &ServiceState, container: &Container) -> Option<IdMappings> {
    service.pod_of(container)?.config.user.clone()
}

fn layers(container: &Container) -> Result<Vec<PathBuf>, Cause> {
    let leases = container.leases.lock().unwrap_or_else(PoisonError::into_inner);
    let gone = || Cause::LayersGone { image: container.metadata.image.name.clone() };
    Ok(leases.as_ref().and_then(|leases| leases.root.as_ref()).ok_or_else(gone)?.layer_paths().to_vec())
}

fn writable(
    container: &Container,
    user: Option<BorrowedFd<'_>>,
) -> Result<(OwnedFd, Option<PathBuf>), Cause> {
    // The container's own work folder is marked as used, so the kernel refuses a second mount with it.
    let work = container.folder.copy_work();
    record::remove_folder(&work).and_then(|()| std::fs::create_dir(&work)).map_err(Cause::file(&work))?;
    Ok((rootfs::assemble(&layers(container)?, &container.folder.upper(), &work, user)?, Some(work)))
}

/// Collects an archive into pieces for the client.
struct Pieces {
    sender: mpsc::Sender<Piece>,
    client: Client,
    piece: Vec<u8>,
}

impl Pieces {
    fn send(&self, piece: Piece) -> io::Result<()> {
        let gone = |_| io::Error::new(io::ErrorKind::BrokenPipe, "the client is gone");
        self.client.wait(self.sender.send(piece))?.map_err(gone)
    }
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(PIECE - self.piece.len());
        self.piece.extend_from_slice(&bytes[..taken]);
        if self.piece.len() == PIECE {
            self.flush()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        let piece = std::mem::take(&mut self.piece);
        if piece.is_empty() { Ok(()) } else { self.send(Ok(piece)) }
    }
}
