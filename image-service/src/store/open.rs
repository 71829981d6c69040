//! Opening the store: what is on disk becomes what is known. Nothing is deleted here.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, RwLock};

use crisp_operation::{clock, record};
use rustix::fs::IFlags;

use super::config;
use super::error::StoreError;
use super::image::Image;
use super::lock::StoreLock;
use super::marks::{Mark, Marks};
use super::record::{ImageRecord, LayerRecord};
use super::sync::FileSystems;
use super::{Health, Inner, State, Store, StoreConfig, StoredImage, StoredLayer, exchange};
use crate::background::Background;
use crate::digest::DiffId;
use crate::layout::{self, ImageFolder, LayerFolder, Layout};

impl Store {
    /// Opens, and creates where missing, the store below `root`.
    ///
    /// A record that cannot be read, or that a newer release wrote, is set aside with its content and a
    /// warning: the image is pulled again when it is next needed. An image that was not yet durable when
    /// the machine went down is not loaded, and a layer from before the last boot that no image names is
    /// not used by a pull before it was checked.
    ///
    /// # Errors
    /// [`StoreError::InUse`] when another server has it open, else the folder that cannot be made or read.
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        Self::open_with(StoreConfig { root: root.to_owned(), ..StoreConfig::default() })
    }

    /// [`open`](Self::open) with everything that can be set.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_with(config: StoreConfig) -> Result<Self, StoreError> {
        let StoreConfig { root, state, limits } = config;
        let layout = Layout::new(&root, state.as_deref());
        for folder in layout.folders() {
            // For root alone: layers hold setuid programs.
            let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder);
            made.map_err(StoreError::at("create", &folder))?;
        }
        spread_on_ext4(&layout.unpacking());
        let lock = StoreLock::take(&layout)?;
        let inner = Inner {
            limits,
            state: RwLock::default(),
            writing: Mutex::new(()),
            disk_full: AtomicBool::new(false),
            trash: Background::new("crisp-trash"),
            syncer: Background::new("crisp-sync"),
            file_systems: FileSystems::open(&layout)?,
            marks: Marks::open(layout.marks()),
            next: AtomicU64::new(first_number(&layout)?),
            _lock: lock,
            layout,
        };
        let state = inner.load()?;
        *inner.state_mut() = state;
        let inner = Arc::new(inner);
        Inner::sync_later(&inner);
        Ok(Self { inner })
    }
}

impl Inner {
    fn load(&self) -> Result<State, StoreError> {
        let layout = &self.layout;
        self.finish_exchanges()?;
        let mut state = State { layers: self.load_layers()?, ..State::default() };
        for folder in [layout.unpacking(), layout.layer_trash(), layout.new_images(), layout.image_trash()] {
            state.leftovers.extend(entries(&folder)?.into_iter().map(|(path, _)| path));
        }
        for (path, name) in entries(&layout.superseded())? {
            match name.split_once('.').map(|(name, _)| layout::digest_of(name)) {
                Some(Ok(digest)) => state.superseded.push((digest.into(), path)),
                _ => tracing::warn!(path = %path.display(), "not a layer's folder; left alone"),
            }
        }
        let mut images = self.load_images(&mut state)?;
        resolve_duplicate_names(&mut images);
        for stored in images {
            state.insert(stored);
        }
        // The record of a synced image was written after its layers had reached the disk.
        let named: Vec<DiffId> =
            state.images.values().flat_map(|i| i.record.layers.iter().cloned()).collect();
        for diff in named {
            match state.layers.get_mut(&diff) {
                Some(layer) if layer.health == Health::Unsynced => layer.health = Health::Unchecked,
                _ => {}
            }
        }
        // That directories got the attributes of those below may not have reached the disk, and no checksum
        // tells: the next image that has the layer gives them again.
        for layer in state.layers.values_mut().filter(|layer| layer.health == Health::Unsynced) {
            let inherited = std::mem::take(&mut layer.record.inherited);
            layer.record.implied.extend(inherited);
        }
        Ok(state)
    }

    fn load_images(&self, state: &mut State) -> Result<Vec<StoredImage>, StoreError> {
        let mut images = Vec::new();
        for (path, name) in entries(&self.layout.images())? {
            if is_foreign(&path, &name) {
                continue;
            }
            match self.load_image(&name, &ImageFolder(path.clone()), &state.layers) {
                Ok(stored) if self.may_be_incomplete(&stored.record) => {
                    tracing::info!(
                        image = name,
                        "it did not reach the disk as a whole; it will be pulled again"
                    );
                    let away = layout::numbered(&self.layout.image_trash(), self.number());
                    match fs::rename(&path, &away) {
                        Ok(()) => state.leftovers.push(away),
                        Err(error) => tracing::error!(%error, image = name, "cannot remove it"),
                    }
                }
                Ok(stored) => images.push(stored),
                Err(why) => self.set_aside_found(&path, &self.layout.bad_images(), &name, &why),
            }
        }
        Ok(images)
    }

    fn load_image(
        &self,
        name: &str,
        folder: &ImageFolder,
        layers: &HashMap<DiffId, StoredLayer>,
    ) -> Result<StoredImage, String> {
        let digest = layout::digest_of(name).map_err(|e| e.to_string())?;
        let record: ImageRecord = record::read(&folder.record()).map_err(|e| e.to_string())?;
        if record.id.digest() != &digest {
            return Err(format!("its record is about {}", record.id));
        }
        let bytes = fs::read(folder.config()).map_err(|e| format!("configuration: {e}"))?;
        if !digest.matches(&bytes) {
            return Err("its configuration is damaged".to_owned());
        }
        if let Some(missing) = record.layers.iter().find(|diff| !layers.contains_key(diff)) {
            return Err(format!("layer {missing} is missing"));
        }
        let config = config::parse(&digest, &bytes).map_err(|e| e.to_string())?;
        let bytes = |diff: &DiffId| layers.get(diff).map_or(0, |layer| layer.record.bytes);
        let image = Arc::new(Image::new(&record, config, bytes));
        Ok(StoredImage { image, record, version: self.number() })
    }

    fn load_layers(&self) -> Result<HashMap<DiffId, StoredLayer>, StoreError> {
        let mut layers = HashMap::new();
        for (path, name) in entries(&self.layout.layers())? {
            if is_foreign(&path, &name) {
                continue;
            }
            match load_layer(&name, &LayerFolder(path.clone())) {
                Ok(record) => {
                    let mut record = record;
                    record.damaged |= self.marks.contains(&Mark::Layer(record.diff_id.clone()));
                    let health = match (record.damaged, record.boot_id == clock::boot_id()) {
                        (true, _) => Health::Damaged,
                        (false, true) => Health::Unchecked,
                        (false, false) => Health::Unsynced,
                    };
                    let layer = StoredLayer { record, health, version: self.number() };
                    layers.insert(layer.record.diff_id.clone(), layer);
                }
                Err(why) => self.set_aside_found(&path, &self.layout.bad_layers(), &name, &why),
            }
        }
        Ok(layers)
    }

    /// Ends what an earlier server left of exchanges. A copy of a layer whose place is taken is kept as long
    /// as containers run on it.
    fn finish_exchanges(&self) -> Result<(), StoreError> {
        let names = |folder: &Path| -> Result<Vec<String>, StoreError> {
            Ok(entries(folder)?.into_iter().map(|(_, name)| name).collect())
        };
        let (layers, images) = (self.layout.layers(), self.layout.images());
        exchange::finish_interrupted(&layers, &names(&layers)?, |name| {
            layout::named(&self.layout.superseded(), name, self.number())
        });
        exchange::finish_interrupted(&images, &names(&images)?, |_| {
            layout::numbered(&self.layout.image_trash(), self.number())
        });
        Ok(())
    }

    /// The boot or the disk ended before the image was durable.
    fn may_be_incomplete(&self, record: &ImageRecord) -> bool {
        record.unsynced_in.as_ref().is_some_and(|boot| boot != clock::boot_id())
            || self.marks.contains(&Mark::Image(record.id.clone()))
    }

    /// A disk that refuses must not keep the server from starting: what stays is tried again when its
    /// place is needed.
    fn set_aside_found(&self, path: &Path, to: &Path, name: &str, why: &str) {
        tracing::warn!(path = %path.display(), why, "found something that cannot be used");
        if let Err(error) = self.set_aside(path, to, name) {
            tracing::error!(%error, "it stays where it is");
        }
    }
}

fn load_layer(name: &str, folder: &LayerFolder) -> Result<LayerRecord, String> {
    let digest = layout::digest_of(name).map_err(|e| e.to_string())?;
    let record: LayerRecord = record::read(&folder.record()).map_err(|e| e.to_string())?;
    if record.diff_id.digest() != &digest {
        return Err(format!("its record is about {}", record.diff_id));
    }
    if !folder.tree().is_dir() {
        return Err("it has no content".to_owned());
    }
    Ok(record)
}

/// Leaves each name on the image that got it last.
fn resolve_duplicate_names(images: &mut [StoredImage]) {
    let mut latest: HashMap<String, i64> = HashMap::new();
    for name in images.iter().flat_map(|stored| &stored.record.names) {
        let since = latest.entry(name.name.clone()).or_insert(name.since);
        *since = (*since).max(name.since);
    }
    for stored in images {
        let before = stored.record.names.len();
        stored.record.names.retain(|name| latest.get(&name.name) == Some(&name.since));
        if stored.record.names.len() != before {
            let size = stored.image.size;
            let image = Image::new(&stored.record, stored.image.config.clone(), |_| 0);
            stored.image = Arc::new(Image { size, ..image });
        }
    }
}

/// Asks ext4 to place each new layer apart from the others, where much is free. By default all would be
/// beside their common parent, where for a minute and more after something was deleted each new file
/// has to search past the inodes that the deleted files had: pulling an image again just after it was
/// removed would take ten times as long. Other file systems do not know the flag, and need it not.
fn spread_on_ext4(folder: &Path) {
    if let Ok(folder) = File::open(folder)
        && let Ok(flags) = rustix::fs::ioctl_getflags(&folder)
    {
        let _ = rustix::fs::ioctl_setflags(&folder, flags | IFlags::TOPDIR);
    }
}

/// A number that no folder has, and none had lately: ext4 also looks at the name.
fn first_number(layout: &Layout) -> Result<u64, StoreError> {
    let mut highest = u64::try_from(clock::now() / 1_000_000).unwrap_or_default();
    for folder in layout.folders() {
        for (_, name) in entries(&folder)? {
            let number = name.rsplit('.').next().and_then(|digits| digits.parse().ok());
            highest = highest.max(number.filter(|n| *n < u64::MAX / 2).unwrap_or(0));
        }
    }
    Ok(highest + 1)
}

/// Neither an image nor a layer, but one of the folders beside them, or the file system's own.
fn is_foreign(path: &Path, name: &str) -> bool {
    if layout::digest_of(name).is_ok() {
        return false;
    }
    if !name.starts_with('.') && name != "lost+found" {
        tracing::warn!(path = %path.display(), "not a folder of the image store; left alone");
    }
    true
}

/// The paths and names in a folder. The store gives no names that are not UTF-8.
fn entries(folder: &Path) -> Result<Vec<(PathBuf, String)>, StoreError> {
    let read = || -> io::Result<Vec<(PathBuf, String)>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            if let Ok(name) = entry.file_name().into_string() {
                found.push((entry.path(), name));
            }
        }
        Ok(found)
    };
    read().map_err(StoreError::at("list", folder))
}
