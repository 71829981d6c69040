//! Makes images durable: syncs them to disk in the background, so that no pull waits for the disk.
//!
//! The kernel reports a failed write once per open file: `syncfs` on a descriptor reports failures since its
//! last call, or since it was opened, and the pages count as written afterwards. So one descriptor per file
//! system is opened before anything is written, and used for every sync; after a failure, content that was
//! not synced before is never called durable, whatever later syncs report.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crisp_operation::{clock, fault};

use super::error::StoreError;
use super::{Health, Inner, Store};
use crate::digest::{DiffId, ImageId};
use crate::layout::Layout;

/// The file systems that the store writes to.
#[derive(Debug)]
pub(super) struct FileSystems {
    /// One or two.
    roots: Vec<File>,
    /// One sync at a time: a failure is reported to one caller only.
    syncing: Mutex<()>,
    failures: AtomicU64,
}

impl FileSystems {
    pub(super) fn open(layout: &Layout) -> Result<Self, StoreError> {
        let open = |path: &Path| -> Result<(File, u64), StoreError> {
            let file = File::open(path).map_err(StoreError::at("open", path))?;
            let device = file.metadata().map_err(StoreError::at("look at", path))?.dev();
            Ok((file, device))
        };
        let (layers, images) = (open(&layout.layers())?, open(&layout.images())?);
        let mut roots = vec![layers.0];
        if layers.1 != images.1 {
            roots.push(images.0);
        }
        Ok(Self { roots, syncing: Mutex::new(()), failures: AtomicU64::new(0) })
    }

    /// The number of failed syncs.
    pub(super) fn failures(&self) -> u64 {
        self.failures.load(Ordering::Acquire)
    }

    fn sync(&self) -> io::Result<()> {
        // All of them, so that each failure is reported.
        let results: Vec<_> = self.roots.iter().map(rustix::fs::syncfs).collect();
        results.into_iter().collect::<Result<(), _>>()?;
        Ok(())
    }
}

impl Store {
    /// Makes every committed image durable now. The store does that itself soon after each commit; this call
    /// waits for it.
    ///
    /// # Errors
    /// The file system refuses. The images stay usable until the next start of the server, and must be pulled
    /// again after it.
    pub fn sync(&self) -> Result<(), StoreError> {
        self.inner.sync()
    }
}

impl Inner {
    pub(super) fn sync_later(inner: &Arc<Self>) {
        let store = Arc::clone(inner);
        inner.syncer.run(move || {
            if let Err(e) = store.sync() {
                tracing::error!(error = %e, "images pulled just now must be pulled again after a restart");
            }
        });
    }

    /// One sync for all content, then the records.
    fn sync(&self) -> Result<(), StoreError> {
        self.retry_damage_records();
        let waiting = self.unsynced();
        if waiting.is_empty() {
            return Ok(());
        }
        self.sync_content()?;
        self.certify(waiting)
    }

    /// Records that these commits are durable.
    fn certify(&self, commits: Vec<(ImageId, u64)>) -> Result<(), StoreError> {
        for (id, version) in commits {
            let _writing = self.writing();
            // Removed, synced by another call, or committed again: that commit has its own sync.
            if self.unsynced().contains(&(id.clone(), version)) {
                self.change(&id, |record| record.unsynced_in = None)?;
            }
        }
        Ok(())
    }

    /// Makes everything written so far durable, or marks everything that may be lost as damaged.
    pub(super) fn sync_content(&self) -> Result<(), StoreError> {
        let _syncing = self.file_systems.syncing.lock().unwrap_or_else(PoisonError::into_inner);
        let fault = fault::point("sync_images", "syncfs", &self.layout.root().to_string_lossy());
        fault.map_err(io::Error::other).and_then(|()| self.file_systems.sync()).map_err(|source| {
            self.distrust_unsynced();
            let path = self.layout.layers();
            StoreError::at("sync the file system of", &path)(source)
        })
    }

    /// After a failed sync: content that was not durable before may be lost, and must be pulled again.
    fn distrust_unsynced(&self) {
        let _writing = self.writing();
        self.file_systems.failures.fetch_add(1, Ordering::AcqRel);
        let (images, layers) = {
            let state = self.state();
            let unsynced = state.images.values().filter(|stored| stored.record.unsynced_in.is_some());
            let images: Vec<ImageId> = unsynced.map(|stored| stored.record.id.clone()).collect();
            let synced = |diff: &DiffId| {
                let durable = |stored: &&super::StoredImage| stored.record.unsynced_in.is_none();
                state.images.values().filter(durable).any(|stored| stored.record.lower().contains(diff))
            };
            let layers = state.layers.iter().filter(|(diff, layer)| {
                let this_boot = layer.record.boot_id == clock::boot_id();
                layer.health == Health::Unsynced || (this_boot && !synced(diff))
            });
            (images, layers.map(|(diff, _)| diff.clone()).collect::<Vec<_>>())
        };
        for id in images {
            self.mark_sync_failed(&id);
        }
        for diff in layers {
            self.mark_damaged(&diff);
        }
    }

    fn unsynced(&self) -> Vec<(ImageId, u64)> {
        let state = self.state();
        let unsynced =
            state.images.values().filter(|s| s.record.unsynced_in.as_deref() == Some(clock::boot_id()));
        unsynced.map(|stored| (stored.record.id.clone(), stored.version)).collect()
    }
}

/// Makes renames within a folder durable.
pub(super) fn folder(path: &Path) -> Result<(), StoreError> {
    File::open(path).and_then(|folder| folder.sync_all()).map_err(StoreError::at("sync", path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;
    use crate::reference::Reference;
    use crate::store::{Document, NewImage};

    fn image() -> NewImage {
        let document = |text: &str| Document { digest: Digest::sha256(text.as_bytes()), bytes: text.into() };
        let config = r#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}"#;
        NewImage {
            reference: Reference::parse("app:v1").unwrap(),
            resolved: Digest::sha256(b"{}"),
            manifest: document("{}"),
            config: document(config),
        }
    }

    #[test]
    fn a_sync_does_not_speak_for_a_later_pull_of_the_same_image() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let inner = &store.inner;
        // So that the store's own syncs wait until the end of the test.
        let syncing = inner.file_systems.syncing.lock().unwrap();
        let id = store.commit_image(image()).unwrap().id.clone();
        let synced = inner.unsynced();
        assert_eq!(synced.len(), 1);
        store.remove_image(&id).unwrap();
        store.commit_image(image()).unwrap();
        inner.certify(synced).unwrap();
        let again = inner.unsynced();
        assert_eq!(again.len(), 1, "the second commit was not synced");
        inner.certify(again).unwrap();
        assert!(inner.unsynced().is_empty());
        drop(syncing);
    }

    #[test]
    fn an_image_pulled_again_before_it_is_durable_is_never_off_the_disk() {
        use std::sync::atomic::AtomicBool;
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let syncing = store.inner.file_systems.syncing.lock().unwrap();
        let id = store.commit_image(image()).unwrap().id.clone();
        let (record, ended) = (store.inner.layout.image(&id).record(), AtomicBool::new(false));
        std::thread::scope(|scope| {
            let watcher = scope.spawn(|| {
                let mut missing = 0;
                while !ended.load(Ordering::Relaxed) {
                    missing += usize::from(!record.exists());
                }
                missing
            });
            for _ in 0..500 {
                store.commit_image(image()).unwrap();
            }
            ended.store(true, Ordering::Relaxed);
            assert_eq!(watcher.join().unwrap(), 0, "a server that dies now would lose the image");
        });
        // Also when its folder is lost.
        std::fs::remove_dir_all(store.inner.layout.image(&id).path()).unwrap();
        store.commit_image(image()).unwrap();
        assert!(record.exists());
        drop(syncing);
    }
}
