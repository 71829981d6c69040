//! The image store: records of images and the unpacked layers that they share.
//!
//! ```text
//!   ingest_layer ─> .unpacking/<n> ─rename─> layers/<diff id>
//!   commit_image ─> images/<id>/record.json, "unsynced in this boot"       usable from here on
//!   sync         ─> syncfs, then the record without that remark            durable from here on
//!   check, verify ─> layers compared with their checksum; a pull replaces those that differ
//!   remove_image ─> record removed; layers that no image, lease or hold needs go to .trash
//! ```
//!
//! A layer never changes: images share it. If a layer uses directories that its archive lacks, an image gets
//! its own additional layer above it, see `inherit`.
//!
//! A layer is durable before a record that is valid after a reboot names it. Until then the record has the
//! boot in which it was written: if the server dies, nothing is lost, because the page cache survives; after
//! a power cut the image is missing instead of damaged. So no pull waits for the disk: one syncfs for
//! thousands of small files would take a third of a pull's time, and far longer if containers have written a
//! lot to the same file system.
//!
//! Opening deletes nothing: the layers on which containers run are known only when the runtime service has
//! taken their leases again and calls [`Store::start_collection`].
//!
//! Lookups are served from memory under a lock held for nanoseconds; `writing` excludes writers of the disk
//! from each other, never readers. All methods that use the disk block.

mod check;
mod commit;
mod config;
mod damage_list;
mod error;
mod exchange;
mod find;
mod image;
mod ingest;
mod inherit;
mod layer_use;
mod lease;
mod load;
mod lock;
mod metrics;
mod open;
mod periodic_check;
mod publish;
mod record;
mod remove;
mod sync;
mod tag;

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

pub use check::Condition;
pub(crate) use config::parse as parse_config;
pub(crate) use error::is_disk_full;
pub use error::{FindError, IngestError, StoreError};
pub use image::{Document, FsUsage, Image, NewImage, Removed};
pub use ingest::IngestedLayer;
pub use layer_use::LayerUse;
pub use lease::{Hold, KeepAll, Lease};
pub use tag::LocalImage;

use crate::background::Background;
use crate::digest::{DiffId, ImageId};
use crate::layout::Layout;
use crate::unpack::Limits;
use damage_list::DamageList;
use record::{ImageRecord, LayerRecord};
use sync::FileSystems;

/// Folders and limits of a store.
#[derive(Debug, Clone, Default)]
pub struct StoreConfig {
    /// The persistent root.
    pub root: PathBuf,
    /// A folder in memory, which lasts until the reboot, for damage that the disk refuses to record. Without
    /// one, such damage is forgotten when the server ends.
    pub state: Option<PathBuf>,
    /// Limits for an archive.
    pub limits: Limits,
}

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
    /// Locked while folders or records are moved, written or removed.
    writing: Mutex<()>,
    trash: Background,
    syncer: Background,
    file_systems: FileSystems,
    damage_list: DamageList,
    /// The disk was full at the last unpacking: layers of failed pulls are not kept.
    disk_full: AtomicBool,
    /// Numbers temporary folders, and versions of images and layers in memory.
    next: AtomicU64,
    _lock: lock::StoreLock,
}

/// The content of the disk, in memory.
#[derive(Debug, Default)]
struct State {
    images: HashMap<ImageId, StoredImage>,
    /// `name:tag` and `name@digest`.
    names: HashMap<String, ImageId>,
    layers: HashMap<DiffId, StoredLayer>,
    /// The number of leases and holds of a layer, present or not.
    users: HashMap<DiffId, usize>,
    /// Damaged layers that were replaced while they had users.
    superseded: Vec<(DiffId, PathBuf)>,
    /// Folders that an earlier server left half written or half deleted.
    leftovers: Vec<PathBuf>,
    /// Images, and layers, that earlier servers set aside.
    aside: [Vec<PathBuf>; 2],
    /// An image's record could not be read at the start: the layers that it needs are unknown.
    has_unread: bool,
    /// Layers may be deleted: all leases of an earlier server are taken again.
    collecting: bool,
    /// The number of [`KeepAll`]s.
    keep_all: usize,
    /// Layers whose collection was postponed by a [`KeepAll`], or by a [`Hold`] when their image was removed.
    postponed: HashSet<DiffId>,
}

#[derive(Debug)]
struct StoredImage {
    image: Arc<Image>,
    record: ImageRecord,
    /// Changes with each commit, so that a sync never certifies a later commit.
    version: u64,
}

#[derive(Debug)]
struct StoredLayer {
    record: LayerRecord,
    health: Health,
    /// Changes with each tree.
    version: u64,
}

/// The condition of a layer's tree, as far as it is known.
///
/// ```text
///   unpacked ──> Sound <── check ── Unchecked <── found at the start
///                  │                    │
///                  └── verify, failed sync ──> Damaged ── next pull unpacks it again ──> Sound
///                                               ^
///   found, perhaps never synced: Unsynced ── check
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Health {
    /// Unpacked or checked by this server.
    Sound,
    /// Found at the start.
    Unchecked,
    /// Found at the start, unpacked in an earlier boot, and no image confirms that it reached the disk.
    Unsynced,
    /// It differs from its checksum, or may differ.
    Damaged,
}

impl Store {
    /// Whether a layer exists and can be used. It is kept only while a [`Hold`], a [`Lease`] or an image has
    /// it.
    #[must_use]
    pub fn has_layer(&self, diff: &DiffId) -> bool {
        self.inner.state().layers.get(diff).is_some_and(StoredLayer::is_usable)
    }

    /// Every image, in no particular order.
    #[must_use]
    pub fn list(&self) -> Vec<Arc<Image>> {
        self.inner.state().images.values().map(|stored| Arc::clone(&stored.image)).collect()
    }

    /// The disk usage of all layers, from their records: no disk is walked.
    #[must_use]
    pub fn usage(&self) -> FsUsage {
        let state = self.inner.state();
        state.layers.values().fold(FsUsage::default(), |sum, layer| FsUsage {
            bytes: sum.bytes + layer.record.bytes,
            inodes: sum.inodes + layer.record.inodes,
        })
    }

    /// The folder of the layers; [`usage`](Self::usage) refers to it too.
    #[must_use]
    pub fn layers_path(&self) -> PathBuf {
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

    /// Renames a file or folder into a trash folder and deletes it in the background. A missing one is not an
    /// error.
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

impl StoredLayer {
    fn is_usable(&self) -> bool {
        match self.health {
            Health::Sound | Health::Unchecked => true,
            Health::Unsynced | Health::Damaged => false,
        }
    }
}

impl State {
    /// Whether an image contains this layer.
    fn in_an_image(&self, diff: &DiffId) -> bool {
        self.images.values().any(|stored| stored.record.lower().contains(diff))
    }

    /// Whether a layer must stay.
    fn needs(&self, diff: &DiffId) -> bool {
        self.users.contains_key(diff) || self.in_an_image(diff)
    }

    /// Those of `layers` that must stay. Lists wait for the lock: one look at all images is enough.
    fn needed_of(&self, layers: &[DiffId]) -> HashSet<DiffId> {
        let asked: HashSet<&DiffId> = layers.iter().collect();
        let used = self.images.values().flat_map(|stored| stored.record.lower()).chain(self.users.keys());
        used.filter(|diff| asked.contains(*diff)).cloned().collect()
    }

    /// Whether the layer's archive hides everything below its root.
    fn hides_below(&self, diff: &DiffId) -> bool {
        self.layers.get(diff).is_some_and(|layer| layer.record.opaque_root)
    }

    /// Adds an image or replaces it, and moves its names to it.
    fn insert(&mut self, stored: StoredImage) {
        for name in &stored.record.names {
            self.names.insert(name.name.clone(), stored.record.id.clone());
        }
        self.images.insert(stored.record.id.clone(), stored);
    }
}
