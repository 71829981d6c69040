//! Making images durable, off everybody's path.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use super::error::StoreError;
use super::{Inner, Store, record};
use crate::digest::ImageId;

impl Store {
    /// Makes every committed image durable, now. It happens by itself soon after each commit; this is for
    /// those who want to know when.
    ///
    /// # Errors
    /// The file system refuses; the images stay usable until the next boot.
    pub fn settle(&self) -> Result<(), StoreError> {
        self.inner.settle()
    }
}

impl Inner {
    pub(super) fn settle_later(inner: &Arc<Self>) {
        let store = Arc::clone(inner);
        inner.settler.then(move || {
            if let Err(e) = store.settle() {
                tracing::warn!(error = %e, "images pulled just now may be gone after a power cut");
            }
        });
    }

    /// One syncfs for all content, then each record, for good.
    fn settle(&self) -> Result<(), StoreError> {
        let waiting = self.unsettled();
        if waiting.is_empty() {
            return Ok(());
        }
        let (layers, images) = (self.layout.layers(), self.layout.images());
        record::sync_file_system(&layers)?;
        if device(&layers)? != device(&images)? {
            record::sync_file_system(&images)?;
        }
        for id in waiting {
            let _writing = self.writing();
            if !self.unsettled().contains(&id) {
                // Somebody else was faster, or it was removed.
                continue;
            }
            self.change(&id, |record| record.unsettled_in = None)?;
        }
        Ok(())
    }

    fn unsettled(&self) -> Vec<ImageId> {
        let state = self.state();
        let unsettled = state.images.values().filter(|known| known.record.unsettled_in.is_some());
        unsettled.map(|known| known.record.id.clone()).collect()
    }
}

fn device(path: &Path) -> Result<u64, StoreError> {
    std::fs::metadata(path).map(|metadata| metadata.dev()).map_err(StoreError::at("look at", path))
}
