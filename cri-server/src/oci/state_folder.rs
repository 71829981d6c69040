//! The folder of a container below `--root`: the command that makes it owns the id.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use crisp_operation::record::{self, Durability};
use oci_spec::runtime::Spec;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags, flock, fstat, open, unlinkat};
use rustix::io::{Errno, retry_on_intr};

use super::id::OciId;
use super::record::Record;
use crate::server::layout;

/// The start gate in the folder.
pub const GATE: &str = "start.sock";

/// An open folder. While one command has it locked, other commands that change the container wait.
#[derive(Debug)]
pub struct StateFolder {
    path: PathBuf,
    folder: OwnedFd,
}

impl StateFolder {
    /// Makes the folder of a new container, locked.
    ///
    /// # Errors
    /// The id is in use.
    pub fn create(root: &Path, id: &OciId) -> anyhow::Result<Self> {
        record::private_folder(root).with_context(|| format!("make --root {}", root.display()))?;
        let path = root.join(id.as_str());
        match fs::DirBuilder::new().mode(0o700).create(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => bail!(
                "container {id} exists already in {}: choose another id, or remove it with: crisp oci delete {id}",
                root.display()
            ),
            Err(error) => return Err(error).with_context(|| format!("make {}", path.display())),
        }
        Self::locked(path, id)?.with_context(|| format!("container {id} has just been deleted"))
    }

    /// Locks the folder of a container that exists.
    ///
    /// # Errors
    /// The container does not exist.
    pub fn lock(root: &Path, id: &OciId) -> anyhow::Result<Self> {
        let none = || format!("container {id} does not exist ({})", root.join(id.as_str()).display());
        Self::lock_if_present(root, id)?.with_context(none)
    }

    /// As [`lock`](Self::lock). None when there is no such container, or has just been deleted.
    ///
    /// # Errors
    /// The kernel's error.
    pub fn lock_if_present(root: &Path, id: &OciId) -> anyhow::Result<Option<Self>> {
        Self::locked(root.join(id.as_str()), id)
    }

    /// Opens the folder without the lock, for reading.
    ///
    /// # Errors
    /// The container does not exist.
    pub fn open(root: &Path, id: &OciId) -> anyhow::Result<Self> {
        let path = root.join(id.as_str());
        let none = || format!("container {id} does not exist ({})", path.display());
        Self::at(&path)?.with_context(none)
    }

    fn at(path: &Path) -> anyhow::Result<Option<Self>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match open(path, flags, Mode::empty()) {
            Ok(folder) => Ok(Some(Self { path: path.to_owned(), folder })),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(errno).with_context(|| format!("open {}", path.display())),
        }
    }

    fn locked(path: PathBuf, id: &OciId) -> anyhow::Result<Option<Self>> {
        let Some(folder) = Self::at(&path)? else { return Ok(None) };
        folder.wait_for_lock(id).with_context(|| format!("lock {}", path.display()))?;
        // It may have been removed meanwhile, and another one made.
        let inode = fstat(&folder.folder).map(|stat| stat.st_ino).ok();
        let now = fs::metadata(&path).ok().map(|now| now.ino());
        Ok((now == inode).then_some(folder))
    }

    fn wait_for_lock(&self, id: &OciId) -> Result<(), Errno> {
        match flock(&self.folder, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => {}
            result => return result,
        }
        // A hook of another command may take a minute.
        let holder = lock_holder(&self.folder).map_or_else(String::new, |pid| format!(" (process {pid})"));
        let text = format!("crisp: waits for another command that works on container {id}{holder}");
        let _ = writeln!(std::io::stderr(), "{text}");
        retry_on_intr(|| flock(&self.folder, FlockOperation::LockExclusive))
    }

    /// None when there is no record yet: its `create` is under way or was killed.
    ///
    /// # Errors
    /// The record is damaged.
    pub fn record(&self) -> anyhow::Result<Option<Record>> {
        match record::read(&layout::oci_record(&self.path)) {
            Ok(record) => Ok(Some(record)),
            Err(error) if error.is_missing() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The record, which must exist.
    ///
    /// # Errors
    /// The container has no record yet.
    pub fn whole_record(&self, id: &OciId) -> anyhow::Result<Record> {
        let none = || {
            anyhow::anyhow!("container {id} is not created yet, or its create was killed: see delete --force")
        };
        self.record()?.ok_or_else(none)
    }

    /// # Errors
    /// The disk is full.
    pub fn write_record(&self, record: &Record) -> anyhow::Result<()> {
        Ok(record::write(&layout::oci_record(&self.path), record, Durability::Process)?)
    }

    /// Keeps a copy of the spec, because the bundle may change.
    ///
    /// # Errors
    /// The disk is full.
    pub fn write_spec(&self, spec: &Spec) -> anyhow::Result<()> {
        let path = layout::oci_config(&self.path);
        let bytes = serde_json::to_vec(spec)?;
        record::write_file(&path, &bytes, 0o600, Durability::Process)
            .with_context(|| format!("write {}", path.display()))
    }

    /// # Errors
    /// The copy is damaged.
    pub fn spec(&self) -> anyhow::Result<Spec> {
        let path = layout::oci_config(&self.path);
        let bytes = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
        serde_json::from_slice(&bytes).with_context(|| format!("read {}", path.display()))
    }

    /// Whether the first process still waits at the start gate.
    pub fn has_gate(&self) -> bool {
        rustix::fs::statat(&self.folder, GATE, AtFlags::SYMLINK_NOFOLLOW).is_ok()
    }

    /// # Errors
    /// The kernel's error.
    pub fn remove_gate(&self) -> anyhow::Result<()> {
        match unlinkat(&self.folder, GATE, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(errno).with_context(|| format!("remove {GATE} of {}", self.path.display())),
        }
    }

    /// Removes the folder; the id is free then.
    ///
    /// # Errors
    /// The kernel's error.
    pub fn remove(self) -> anyhow::Result<()> {
        record::remove_folder(&self.path).with_context(|| format!("remove {}", self.path.display()))
    }
}

/// The process that locked `folder`, from /proc/locks: see proc_locks(5). The number may be that of one that has
/// ended and left its lock to its children.
fn lock_holder(folder: &OwnedFd) -> Option<u32> {
    let stat = fstat(folder).ok()?;
    let (major, minor) = (rustix::fs::major(stat.st_dev), rustix::fs::minor(stat.st_dev));
    let file = format!("{major:02x}:{minor:02x}:{}", stat.st_ino);
    let locks = fs::read_to_string("/proc/locks").ok()?;
    locks.lines().find_map(|line| {
        let mut fields = line.split_whitespace().skip(4);
        let pid = fields.next()?.parse().ok()?;
        (fields.next()? == file).then_some(pid)
    })
}

impl AsFd for StateFolder {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.folder.as_fd()
    }
}
