//! The image store: records of images and the unpacked layers that they share.
//!
//! ```text
//!   ingest_layer ─> .unpacking/<n> ─rename─> layers/<diff id>
//!   commit_image ─> images/<id>/record.json, "unsettled in this boot"      usable from here on
//!   settle       ─> syncfs, then the record without that remark            durable from here on
//!   remove_image ─> record away, then gc: layers that no image, lease or hold wants go to .trash
//! ```
//!
//! A layer is durable before a record that counts after a reboot names it. Until then the record says in
//! which boot it was written: a server that dies loses nothing, as the page cache survives it, and after
//! a power cut the image is not there instead of damaged. So nobody waits for the disk, which with one
//! syncfs for thousands of small files would be a third of a pull's time, and far longer where containers
//! have written a lot to the same file system.
//!
//! Lookups are answered from memory under a lock held for nanoseconds; `writing` keeps those who change
//! the disk apart from each other, never from readers. All methods that touch the disk block.

mod commit;
mod config;
mod error;
mod find;
mod image;
mod ingest;
mod inherit;
mod lease;
mod open;
mod record;
mod remove;
mod sync;

use std::collections::HashMap;
use std::fs::File;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

pub use error::{FindError, IngestError, LayerCompression, StoreError};
pub use image::{Document, FsUsage, Image, NewImage, Removed};
pub use ingest::IngestedLayer;
pub use lease::{Hold, Lease};

use crate::background::Background;
use crate::digest::{DiffId, ImageId};
use crate::layout::Layout;
use crate::unpack::Limits;
use record::{ImageRecord, LayerRecord};

/// The image store of one root folder. Clones share it.
#[derive(Debug, Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    layout: Layout,
    limits: Limits,
    state: RwLock<State>,
    /// Held while folders or records are put in place or taken away.
    writing: Mutex<()>,
    trash: Background,
    syncer: Background,
    /// The disk was full when a layer was last unpacked: nothing is kept for a next try.
    tight: AtomicBool,
    /// Names temporary folders.
    next: AtomicU64,
    /// Keeps a second server out.
    _lock: File,
}

/// What is on disk, in memory.
#[derive(Debug, Default)]
struct State {
    images: HashMap<ImageId, Known>,
    /// `name:tag` and `name@digest`.
    names: HashMap<String, ImageId>,
    layers: HashMap<DiffId, LayerRecord>,
    /// How many leases and holds want a layer, present or not.
    wanted: HashMap<DiffId, usize>,
}

#[derive(Debug)]
struct Known {
    image: Arc<Image>,
    record: ImageRecord,
}

impl Store {
    /// Whether a layer is there, complete. It stays so only while a [`Hold`], a [`Lease`] or an image
    /// wants it.
    #[must_use]
    pub fn has_layer(&self, diff: &DiffId) -> bool {
        self.inner.state().layers.contains_key(diff)
    }

    /// Every image, in no particular order.
    #[must_use]
    pub fn list(&self) -> Vec<Arc<Image>> {
        self.inner.state().images.values().map(|known| Arc::clone(&known.image)).collect()
    }

    /// What all layers take up, from their records: no disk is walked.
    #[must_use]
    pub fn usage(&self) -> FsUsage {
        let state = self.inner.state();
        state.layers.values().fold(FsUsage::default(), |sum, layer| FsUsage {
            bytes: sum.bytes + layer.bytes,
            inodes: sum.inodes + layer.inodes,
        })
    }

    /// The folder of the layers, which is also what [`usage`](Self::usage) is about.
    #[must_use]
    pub fn layers_path(&self) -> std::path::PathBuf {
        self.inner.layout.layers()
    }
}

impl Inner {
    fn state(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn state_mut(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn writing(&self) -> MutexGuard<'_, ()> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Renames something away and has it deleted in the background.
    fn discard(&self, path: &Path, trash: &Path) -> Result<(), StoreError> {
        let away = crate::layout::numbered(trash, self.number());
        match std::fs::rename(path, &away) {
            Ok(()) => self.trash.delete(away),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(StoreError::at("remove", path)(e)),
        }
        Ok(())
    }
}

impl State {
    /// Whether an image is made of this layer.
    fn in_an_image(&self, diff: &DiffId) -> bool {
        self.images.values().any(|known| known.record.layers.contains(diff))
    }

    /// Whether a layer must stay.
    fn needs(&self, diff: &DiffId) -> bool {
        self.wanted.contains_key(diff) || self.in_an_image(diff)
    }

    /// Takes an image in, replacing what was known of it, and moves its names to it.
    fn adopt(&mut self, known: Known) {
        for name in &known.record.names {
            self.names.insert(name.name.clone(), known.record.id.clone());
        }
        self.images.insert(known.record.id.clone(), known);
    }
}
