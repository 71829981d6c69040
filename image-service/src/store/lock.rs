//! One server per store.

use std::fs::{File, TryLockError};

use super::error::StoreError;
use crate::layout::Layout;

/// Locks the store while it lives.
#[derive(Debug)]
pub(super) struct StoreLock(File);

impl StoreLock {
    /// # Errors
    /// [`StoreError::InUse`], or the file that cannot be made.
    pub(super) fn take(layout: &Layout) -> Result<Self, StoreError> {
        let path = layout.lock();
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(StoreError::at("open", &path))?;
        match file.try_lock() {
            Ok(()) => Ok(Self(file)),
            Err(TryLockError::WouldBlock) => Err(StoreError::InUse(layout.images())),
            Err(TryLockError::Error(e)) => Err(StoreError::at("lock", &path)(e)),
        }
    }
}

/// Unlocks explicitly: a process that another thread is starting has a copy of the descriptor until its exec,
/// and would keep the store locked that long.
impl Drop for StoreLock {
    fn drop(&mut self) {
        if let Err(error) = self.0.unlock() {
            tracing::warn!(%error, "cannot unlock the store; it is unlocked when this process ends");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_of_the_descriptor_in_a_starting_process_does_not_keep_the_next_server_out() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::new(folder.path(), None);
        std::fs::create_dir_all(layout.lock().parent().unwrap()).unwrap();
        let first = StoreLock::take(&layout).unwrap();
        assert!(matches!(StoreLock::take(&layout), Err(StoreError::InUse(_))));
        let copy = first.0.try_clone().unwrap();
        drop(first);
        StoreLock::take(&layout).unwrap();
        drop(copy);
    }
}
