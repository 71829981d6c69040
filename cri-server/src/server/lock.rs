//! One server per folder: the kernel holds the lock, and releases it when the server ends in any way.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use super::layout;

/// The reason why the server cannot use a folder.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process has locked it.
    #[error(
        "{folder} is in use by another crisp (process {holder}): stop that one, or give this one its own \
         --root, --state and --listen"
    )]
    InUse {
        /// The folder.
        folder: PathBuf,
        /// The process id that it wrote into the lock file.
        holder: String,
    },
    /// The lock file cannot be used.
    #[error("cannot lock {path}: {source}")]
    Io {
        /// The lock file.
        path: PathBuf,
        /// The kernel's error.
        source: io::Error,
    },
}

/// A locked folder: no other server uses it until this is dropped.
#[derive(Debug)]
pub struct FolderLock {
    file: File,
}

/// Unlocks explicitly: a process that another thread is starting has a copy of the descriptor until its exec,
/// and would keep the folder locked that long.
impl Drop for FolderLock {
    fn drop(&mut self) {
        if let Err(error) = flock(&self.file, FlockOperation::Unlock) {
            tracing::warn!(%error, "cannot unlock a folder; it is unlocked when this process ends");
        }
    }
}

impl FolderLock {
    /// Locks an existing folder.
    ///
    /// # Errors
    /// [`LockError`].
    pub fn take(folder: &Path) -> Result<Self, LockError> {
        let path = layout::lock(folder);
        let failed = |source: io::Error| LockError::Io { path: path.clone(), source };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(failed)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut holder = String::new();
                file.read_to_string(&mut holder).map_err(failed)?;
                return Err(LockError::InUse { folder: folder.to_owned(), holder: holder.trim().to_owned() });
            }
            Err(error) => return Err(failed(error.into())),
        }
        let written = file
            .set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| writeln!(file, "{}", std::process::id()));
        written.map_err(failed)?;
        Ok(Self { file })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_server_is_told_who_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let first = FolderLock::take(folder.path()).unwrap();
        let error = FolderLock::take(folder.path()).unwrap_err().to_string();
        assert!(error.contains(&std::process::id().to_string()), "{error}");
        assert!(error.contains(folder.path().to_str().unwrap()) && error.contains("--state"), "{error}");
        drop(first);
        FolderLock::take(folder.path()).unwrap();
    }

    #[test]
    fn a_copy_of_the_descriptor_in_a_starting_process_does_not_keep_the_next_server_out() {
        let folder = tempfile::tempdir().unwrap();
        let first = FolderLock::take(folder.path()).unwrap();
        let copy = first.file.try_clone().unwrap();
        drop(first);
        FolderLock::take(folder.path()).unwrap();
        drop(copy);
    }
}
