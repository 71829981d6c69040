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

use std::collections::BTreeSet;
use std::ffi::{CStr, CString, OsStr};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use crisp_executor::rootfs;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat, fgetxattr, openat, statat};
use rustix::io::Errno;
use tokio::sync::mpsc;

use super::container_spec;
use crate::cause::{Cause, StageFailure, Steps};
use crate::container::Container;
use crate::error::RuntimeError;
use crate::service_state::ServiceState;

const OPERATION: &str = "list_changes";
const OPEN: Duration = Duration::from_secs(20);
/// Directories nested deeper than this are not entered: each open one takes a descriptor.
const MAX_DEPTH: usize = 256;
/// Changes in one piece.
const PIECE: usize = 500;

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

/// Reads all changes, directory by directory, each sorted by name.
///
/// # Errors
/// The layers are gone. Later failures are the last piece.
pub async fn changes(
    service: &Arc<ServiceState>,
    container: Arc<Container>,
) -> Result<mpsc::Receiver<Piece>, RuntimeError> {
    let (sender, receiver) = mpsc::channel(4);
    let id = container.id().clone();
    let operation = service.operation(OPERATION, &id);
    let opened = operation.blocking(OPEN, move |steps| Walk::open(&container, sender, steps)).await;
    let mut walk = operation.finish(opened).await?;
    tokio::task::spawn_blocking(move || {
        let last = match walk.run() {
            Ok(()) => Ok(std::mem::take(&mut walk.piece)),
            Err(errno) => Err(RuntimeError::Changes { id, errno }),
        };
        // If the client does not receive this either, it is gone.
        let _ = walk.sender.blocking_send(last);
    });
    Ok(receiver)
}

struct Walk {
    upper: OwnedFd,
    layers: OwnedFd,
    /// Mount points.
    hidden: BTreeSet<PathBuf>,
    /// Parents of the directory that is being read; they are shown only when something in them is.
    pending: Vec<Change>,
    piece: Vec<Change>,
    sender: mpsc::Sender<Piece>,
}

impl Walk {
    fn open(container: &Container, sender: mpsc::Sender<Piece>, steps: &Steps) -> Result<Self, StageFailure> {
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
        Ok(Self { upper, layers, hidden, pending: Vec::new(), piece: Vec::new(), sender })
    }

    fn run(&mut self) -> Result<(), Errno> {
        let upper = open_directory(&self.upper, c".")?;
        let layers = open_directory(&self.layers, c".")?;
        self.directory(&upper, Some(&layers), Path::new("/"), 0)
    }

    fn add(&mut self, path: PathBuf, kind: Kind) -> Result<(), Errno> {
        self.piece.append(&mut self.pending);
        self.piece.push(Change { path, kind });
        if self.piece.len() < PIECE {
            return Ok(());
        }
        self.sender.blocking_send(Ok(std::mem::take(&mut self.piece))).map_err(|_| Errno::PIPE)
    }

    /// Reads one directory. `below` is the same directory in the layers, if it exists there.
    fn directory(
        &mut self,
        upper: &OwnedFd,
        below: Option<&OwnedFd>,
        path: &Path,
        depth: usize,
    ) -> Result<(), Errno> {
        let mut all = names(upper)?;
        if is_opaque(upper) {
            all.extend(below.map(names).transpose()?.into_iter().flatten());
        }
        for name in all {
            let place = path.join(OsStr::from_bytes(name.to_bytes()));
            if self.hidden.contains(&place) {
                continue;
            }
            self.entry(upper, below, &name, place, depth)?;
        }
        Ok(())
    }

    fn entry(
        &mut self,
        upper: &OwnedFd,
        below: Option<&OwnedFd>,
        name: &CStr,
        place: PathBuf,
        depth: usize,
    ) -> Result<(), Errno> {
        let before = below.map(|below| stat_of(below, name)).transpose()?.flatten();
        match (stat_of(upper, name)?, before) {
            (None, None) => Ok(()),
            (None, Some(_)) => self.add(place, Kind::Deleted),
            (Some(now), before) if is_whiteout(&now) => match before {
                Some(_) => self.add(place, Kind::Deleted),
                None => Ok(()),
            },
            (Some(now), before) if kind(&now).is_dir() => {
                let before = before.filter(|before| kind(before).is_dir());
                self.shown(&now, before.as_ref(), place.clone())?;
                let inner = open_directory(upper, name)?;
                let below = before.and(below).map(|below| open_directory(below, name)).transpose()?;
                let above = self.pending.len();
                if depth < MAX_DEPTH {
                    self.directory(&inner, below.as_ref(), &place, depth + 1)?;
                }
                // Nothing in it was shown.
                self.pending.truncate(above.saturating_sub(1));
                Ok(())
            }
            (Some(_), Some(_)) => self.add(place, Kind::Modified),
            (Some(_), None) => self.add(place, Kind::Added),
        }
    }

    /// A directory that is new or differs is shown at once. Others are shown only with changes in them: mount
    /// points, and directories that were copied up for a file in them.
    fn shown(&mut self, now: &Stat, before: Option<&Stat>, place: PathBuf) -> Result<(), Errno> {
        let kind = if before.is_some() { Kind::Modified } else { Kind::Added };
        let waits = match before {
            Some(before) => attributes(before) == attributes(now),
            None => self.hidden.iter().any(|hidden| hidden.starts_with(&place)),
        };
        if waits {
            self.pending.push(Change { path: place, kind });
            return Ok(());
        }
        self.add(place, kind)
    }
}

fn kind(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

fn attributes(stat: &Stat) -> (u32, u32, u32) {
    (stat.st_mode, stat.st_uid, stat.st_gid)
}

fn is_whiteout(stat: &Stat) -> bool {
    kind(stat) == FileType::CharacterDevice && stat.st_rdev == 0
}

fn is_opaque(directory: &OwnedFd) -> bool {
    let mut value = [0; 1];
    matches!(fgetxattr(directory, "trusted.overlay.opaque", &mut value), Ok(1) if value == *b"y")
}

/// None if it does not exist.
fn stat_of(directory: &OwnedFd, name: &CStr) -> Result<Option<Stat>, Errno> {
    match statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        found => found.map(Some),
    }
}

fn open_directory(directory: impl AsFd, name: &CStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(directory, name, flags, Mode::empty())
}

fn names(directory: &OwnedFd) -> Result<BTreeSet<CString>, Errno> {
    let all = Dir::read_from(directory)?.map(|entry| entry.map(|entry| entry.file_name().to_owned()));
    let all: Result<BTreeSet<CString>, Errno> = all.collect();
    Ok(all?.into_iter().filter(|name| !matches!(name.to_bytes(), b"." | b"..")).collect())
}
