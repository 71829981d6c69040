//! Making images durable: synced to disk in the background, so that no pull waits for the disk.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use super::error::StoreError;
use super::{Inner, Store};
use crate::digest::ImageId;

impl Store {
    /// Makes every committed image durable now. The store does so by itself soon after each commit; this
    /// call waits for it.
    ///
    /// # Errors
    /// The file system refuses; the images stay usable until the next boot.
    pub fn sync(&self) -> Result<(), StoreError> {
        self.inner.sync()
    }
}

impl Inner {
    pub(super) fn sync_later(inner: &Arc<Self>) {
        let store = Arc::clone(inner);
        inner.syncer.run(move || {
            if let Err(e) = store.sync() {
                tracing::warn!(error = %e, "images pulled just now may be gone after a power cut");
            }
        });
    }

    /// One syncfs for all content, then each record, for good.
    fn sync(&self) -> Result<(), StoreError> {
        let waiting = self.unsynced();
        if waiting.is_empty() {
            return Ok(());
        }
        let (layers, images) = (self.layout.layers(), self.layout.images());
        file_system(&layers)?;
        if device(&layers)? != device(&images)? {
            file_system(&images)?;
        }
        for id in waiting {
            let _writing = self.writing();
            if !self.unsynced().contains(&id) {
                // Another call was faster, or the image was removed.
                continue;
            }
            self.change(&id, |record| record.unsynced_in = None)?;
        }
        Ok(())
    }

    fn unsynced(&self) -> Vec<ImageId> {
        let state = self.state();
        let unsynced = state.images.values().filter(|known| known.record.unsynced_in.is_some());
        unsynced.map(|known| known.record.id.clone()).collect()
    }
}

fn device(path: &Path) -> Result<u64, StoreError> {
    std::fs::metadata(path).map(|metadata| metadata.dev()).map_err(StoreError::at("look at", path))
}

/// Makes renames within a folder durable.
pub(super) fn folder(path: &Path) -> Result<(), StoreError> {
    File::open(path).and_then(|folder| folder.sync_all()).map_err(StoreError::at("sync", path))
}

/// Makes everything written to the file system of `path` durable: once for a whole image instead of
/// once for each of its files.
fn file_system(path: &Path) -> Result<(), StoreError> {
    File::open(path)
        .and_then(|folder| rustix::fs::syncfs(&folder).map_err(Into::into))
        .map_err(StoreError::at("sync the file system of", path))
}
