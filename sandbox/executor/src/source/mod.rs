//! Sources of bind mounts: opens host paths as detached mounts, within a deadline.
//!
//! A path on a dead NFS server can block a system call for hours, and nothing can interrupt it. So paths are
//! opened by a thread that may be abandoned: the caller gets an error in time, and until the thread returns
//! from the kernel, further requests for that path fail at once instead of each losing a thread. The thread
//! has none of the server's descriptors, see [`opener`].

mod opener;
mod waiting;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, StatxFlags, fchmod, mkdir, open as open_file, statx};
use rustix::io::Errno;
use rustix::mount::{MountAttrFlags, MountPropagationFlags, OpenTreeFlags, open_tree};

use crate::sys::{MountAttr, mount_setattr};
use opener::Opener;
pub use opener::end_thread;
pub use waiting::stuck;

/// Whether mounts that are made later on one side appear on the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Propagation {
    #[default]
    Private,
    /// Host to container (`rslave`).
    HostToContainer,
    /// In both directions (`rshared`).
    Bidirectional,
}

/// The properties of the detached mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Options {
    pub readonly: bool,
    /// Read-only, with all mounts below it.
    pub recursive_readonly: bool,
    /// Includes the mounts below the path (`rbind`).
    pub recursive: bool,
    pub propagation: Propagation,
    /// Makes the folder, and its missing parents, when the path does not exist.
    pub create: bool,
    /// MOUNT_ATTR_ bits for the mount itself: NOSUID, NODEV, NOEXEC, NOATIME ...
    pub attributes: u64,
}

/// A host path as a detached mount.
#[derive(Debug)]
pub struct Source {
    pub mount: OwnedFd,
    /// Whether it is not a folder: then the target must be a file.
    pub file: bool,
}

/// The reason why a host path cannot be mounted.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    #[error("host path {path:?} does not exist")]
    Missing { path: PathBuf },
    #[error(
        "host path {path:?}: no answer within {deadline:?}; the file system it is on is dead or overloaded"
    )]
    Deadline { path: PathBuf, deadline: Duration },
    #[error(
        "host path {path:?}: no answer for {waiting:?} to an earlier request; the file system it is on is dead or overloaded"
    )]
    StillStuck { path: PathBuf, waiting: Duration },
    #[error(
        "host path {path:?}: it is on a mount that is not {wanted} on the host, so mounts cannot propagate{hint}"
    )]
    NotShared { path: PathBuf, wanted: &'static str, hint: &'static str },
    #[error("host path {path:?}: {step}: {errno}{hint}")]
    Kernel { path: PathBuf, step: &'static str, errno: Errno, hint: &'static str },
}

/// Opens one host path, following its symbolic links.
///
/// # Errors
/// The error names the path, and the deadline when it has passed.
pub fn open(path: &Path, options: Options, deadline: Duration) -> Result<Source, SourceError> {
    let mut opened = open_all(vec![(path.to_owned(), options)], deadline).map_err(|(_, error)| error)?;
    opened.pop().ok_or_else(|| SourceError::Missing { path: path.to_owned() })
}

/// Applies `options` to a detached mount of the caller.
///
/// # Errors
/// The kernel's error; `name` is the path in it.
pub fn of_mount(mount: OwnedFd, name: &Path, options: Options) -> Result<Source, SourceError> {
    let failed = |step| {
        move |errno| SourceError::Kernel { path: name.to_owned(), step, errno, hint: hint(step, errno) }
    };
    let file = !is_folder(&mount).map_err(failed("stat"))?;
    set_attributes(&mount, options).map_err(failed("set its mount attributes"))?;
    Ok(Source { mount, file })
}

/// Maps the owners of an opened source's files to a user namespace: the numbers on disk are then ids inside
/// the namespace. `recursive`: includes the mounts below. `path` is for the error.
///
/// # Errors
/// When the file system or the kernel cannot do so.
pub fn map_ids(
    source: &Source,
    path: &Path,
    user: BorrowedFd<'_>,
    recursive: bool,
) -> Result<(), SourceError> {
    const STEP: &str = "map the ids of its owners";
    mount_setattr(source.mount.as_fd(), recursive, &MountAttr::idmap(user)).map_err(|errno| {
        SourceError::Kernel { path: path.to_owned(), step: STEP, errno, hint: hint(STEP, errno) }
    })
}

/// Opens host paths in their order, with one thread and one deadline for all.
///
/// # Errors
/// The first error, with its position.
pub fn open_all(
    requests: Vec<(PathBuf, Options)>,
    deadline: Duration,
) -> Result<Vec<Source>, (usize, SourceError)> {
    let Some((first, _)) = requests.first() else { return Ok(Vec::new()) };
    let opener = Opener::take().map_err(|errno| {
        (0, SourceError::Kernel { path: first.clone(), step: "start a thread", errno, hint: "" })
    })?;
    open_by(opener, requests, deadline)
}

fn open_by(
    opener: Opener,
    requests: Vec<(PathBuf, Options)>,
    deadline: Duration,
) -> Result<Vec<Source>, (usize, SourceError)> {
    let paths: Vec<PathBuf> = requests.iter().map(|(path, _)| path.clone()).collect();
    for (index, path) in paths.iter().enumerate() {
        if let Some(waiting) = waiting::stuck_for(path) {
            opener.give_back();
            return Err((index, SourceError::StillStuck { path: path.clone(), waiting }));
        }
    }
    opener.open(requests, Instant::now() + deadline).map_err(|(position, error)| {
        let position = position.min(paths.len() - 1);
        let late = || SourceError::Deadline { path: paths[position].clone(), deadline };
        (position, error.unwrap_or_else(late))
    })
}

fn open_here(path: &Path, options: Options) -> Result<Source, SourceError> {
    match open_existing(path, options) {
        Err(SourceError::Missing { .. }) if options.create => {
            make_folder(path).map_err(|errno| SourceError::Kernel {
                path: path.to_owned(),
                step: "create",
                errno,
                hint: hint("create", errno),
            })?;
            open_existing(path, options)
        }
        result => result,
    }
}

/// Makes a folder and its parents with mode 0755, independent of the umask: containers of all users use the
/// folder. An existing path, also a dangling link, is not changed.
fn make_folder(path: &Path) -> Result<(), Errno> {
    let mode = Mode::from_raw_mode(0o755);
    let made = match (mkdir(path, mode), path.parent()) {
        (Err(Errno::NOENT), Some(parent)) => make_folder(parent).and_then(|()| mkdir(path, mode)),
        (made, _) => made,
    };
    match made {
        Ok(()) => {}
        Err(Errno::EXIST) => return Ok(()),
        Err(errno) => return Err(errno),
    }
    // By descriptor: a container with access to the parent could replace the folder by a link.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    fchmod(open_file(path, flags, Mode::empty())?, mode)
}

fn open_existing(path: &Path, options: Options) -> Result<Source, SourceError> {
    let failed = |step| {
        move |errno| match errno {
            Errno::NOENT => SourceError::Missing { path: path.to_owned() },
            _ => SourceError::Kernel { path: path.to_owned(), step, errno, hint: hint(step, errno) },
        }
    };
    if options.propagation != Propagation::Private {
        check_shared(path, options.propagation)?;
    }
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if options.recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    let mount = open_tree(CWD, path, flags).map_err(failed("open"))?;
    let file = !is_folder(&mount).map_err(failed("stat"))?;
    set_attributes(&mount, options).map_err(failed("set its mount attributes"))?;
    Ok(Source { mount, file })
}

/// Makes a detached mount read-only.
///
/// # Errors
/// The error of mount_setattr(2).
pub fn make_read_only(mount: &OwnedFd) -> Result<(), Errno> {
    set_attributes(mount, Options { readonly: true, ..Options::default() })
}

fn is_folder(mount: &OwnedFd) -> Result<bool, Errno> {
    // The type never changes, so the file system's server need not be asked.
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let stat = statx(mount, c"", flags, StatxFlags::TYPE)?;
    Ok(FileType::from_raw_mode(stat.stx_mode.into()) == FileType::Directory)
}

fn set_attributes(mount: &OwnedFd, options: Options) -> Result<(), Errno> {
    let readonly = u64::from(MountAttrFlags::MOUNT_ATTR_RDONLY.bits());
    let atime = u64::from(MountAttrFlags::MOUNT_ATTR__ATIME.bits());
    let propagation = match options.propagation {
        Propagation::Private => MountPropagationFlags::PRIVATE,
        Propagation::HostToContainer => MountPropagationFlags::DOWNSTREAM,
        Propagation::Bidirectional => MountPropagationFlags::SHARED,
    };
    let whole = MountAttr {
        set: if options.recursive_readonly { readonly } else { 0 },
        propagation: propagation.bits().into(),
        ..MountAttr::default()
    };
    mount_setattr(mount.as_fd(), true, &whole)?;
    let set = options.attributes | if options.readonly { readonly } else { 0 };
    if set == 0 {
        return Ok(());
    }
    let clear = if set & atime == 0 { 0 } else { atime };
    mount_setattr(mount.as_fd(), false, &MountAttr { set, clear, ..MountAttr::default() })
}

/// Checks that the mount of a path is shared. A detached copy joins the propagation of the mount that it is
/// copied from. A private mount has none, and a pod that relies on it would wait for mounts that never
/// appear.
fn check_shared(path: &Path, propagation: Propagation) -> Result<(), SourceError> {
    let failed = |step, errno| SourceError::Kernel { path: path.to_owned(), step, errno, hint: "" };
    let stat =
        statx(CWD, path, AtFlags::STATX_DONT_SYNC, StatxFlags::MNT_ID).map_err(|errno| match errno {
            Errno::NOENT => SourceError::Missing { path: path.to_owned() },
            errno => failed("find its mount", errno),
        })?;
    let table = std::fs::read_to_string("/proc/thread-self/mountinfo")
        .map_err(|e| failed("read mountinfo", Errno::from_io_error(&e).unwrap_or(Errno::IO)))?;
    let id = stat.stx_mnt_id.to_string();
    let optional = table.lines().find_map(|line| {
        let (mount, _) = line.split_once(" - ")?;
        let mut fields = mount.split(' ');
        (fields.next()? == id).then(|| fields.skip(5).collect::<Vec<_>>())
    });
    let has = |tag: &str| optional.iter().flatten().any(|field| field.starts_with(tag));
    let wanted = match propagation {
        Propagation::Bidirectional if !has("shared:") => "shared",
        Propagation::HostToContainer if !has("shared:") && !has("master:") => "shared or a slave",
        _ => return Ok(()),
    };
    let hint = "; make it so with: mount --make-rshared on its mount point";
    Err(SourceError::NotShared { path: path.to_owned(), wanted, hint })
}

fn hint(step: &'static str, errno: Errno) -> &'static str {
    match (step, errno) {
        ("open", Errno::INVAL) => " (its mount is unbindable, or belongs to another mount namespace)",
        ("open", Errno::LOOP) => " (too many symbolic links)",
        ("set its mount attributes", Errno::BUSY) => " (it is open for writing below a read-only mount)",
        ("map the ids of its owners", Errno::INVAL) => {
            " (its file system or the kernel cannot do so for a pod with a user namespace: give the pod hostUsers: true)"
        }
        ("create", Errno::NOTDIR) => " (something above it is not a folder)",
        (_, Errno::PERM | Errno::ACCESS) => " (not permitted)",
        (_, Errno::STALE | Errno::IO | Errno::NOTCONN) => " (the file system it is on is broken)",
        _ => "",
    }
}

#[cfg(test)]
mod tests;
