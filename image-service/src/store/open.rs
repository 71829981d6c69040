//! Opening the store: what is on disk becomes what is known.

use std::collections::HashMap;
use std::fs::{self, File, TryLockError};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, RwLock};

use crisp_operation::{clock, record};
use rustix::fs::IFlags;

use super::config;
use super::error::StoreError;
use super::image::Image;
use super::record::{ImageRecord, LayerRecord};
use super::{Inner, Known, State, Store};
use crate::background::Background;
use crate::digest::DiffId;
use crate::layout::{self, ImageFolder, Layout};
use crate::unpack::Limits;

impl Store {
    /// Opens, and creates where missing, the store below `root`.
    ///
    /// Leftovers of an interrupted server go. A record that cannot be read, or an image that lacks a
    /// layer, is set aside with a warning: the image is pulled again when it is next wanted. An image that
    /// was not yet durable when the machine went down goes, and so does a layer from before the last boot
    /// that no image names: they may be incomplete. A layer unpacked since stays for the pull that will be
    /// tried again.
    ///
    /// # Errors
    /// [`StoreError::InUse`] when another server has it open, else the folder that cannot be made or read.
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        Self::open_with(root, Limits::default())
    }

    /// [`open`](Self::open) with other limits on what an archive may hold.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_with(root: &Path, limits: Limits) -> Result<Self, StoreError> {
        let layout = Layout::new(root);
        for folder in layout.folders() {
            // Only root may walk in: layers hold other people's setuid programs.
            let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder);
            made.map_err(StoreError::at("create", &folder))?;
        }
        spread(&layout.unpacking());
        let lock = lock(&layout)?;
        let inner = Inner {
            limits,
            state: RwLock::default(),
            writing: Mutex::new(()),
            tight: AtomicBool::new(false),
            trash: Background::new("crisp-trash"),
            syncer: Background::new("crisp-sync"),
            next: AtomicU64::new(first_number(&layout)?),
            _lock: lock,
            layout,
        };
        inner.sweep()?;
        let state = inner.load()?;
        *inner.state_mut() = state;
        let inner = Arc::new(inner);
        Inner::sync_later(&inner);
        Ok(Self { inner })
    }
}

impl Inner {
    /// Hands everything temporary to the background deleter.
    fn sweep(&self) -> Result<(), StoreError> {
        let layout = &self.layout;
        for (from, to) in
            [(layout.unpacking(), layout.layer_trash()), (layout.new_images(), layout.image_trash())]
        {
            for (path, _) in entries(&from)? {
                self.discard(&path, &to)?;
            }
        }
        for trash in [layout.layer_trash(), layout.image_trash()] {
            for (path, _) in entries(&trash)? {
                self.trash.delete(path);
            }
        }
        Ok(())
    }

    fn load(&self) -> Result<State, StoreError> {
        let mut state = State { layers: self.load_layers()?, ..State::default() };
        let mut records = Vec::new();
        for (path, name) in entries(&self.layout.images())? {
            if name.starts_with('.') {
                continue;
            }
            match load_image(&name, &ImageFolder(path.clone()), &state.layers) {
                Ok(known) if self.may_be_damaged(&known.record) => {
                    tracing::info!(
                        image = name,
                        "pulled just before the power went; it will be pulled again"
                    );
                    self.discard(&path, &self.layout.image_trash())?;
                }
                Ok(known) => records.push(known),
                Err(why) => self.set_aside(&path, &name, &why)?,
            }
        }
        resolve_duplicate_names(&mut records);
        for known in records {
            state.adopt(known);
        }
        self.drop_untrusted(&mut state)?;
        Ok(state)
    }

    fn load_layers(&self) -> Result<HashMap<DiffId, LayerRecord>, StoreError> {
        let mut layers = HashMap::new();
        for (path, name) in entries(&self.layout.layers())? {
            if name.starts_with('.') {
                continue;
            }
            let folder = layout::LayerFolder(path.clone());
            let read = layout::digest_of(&name).map_err(|e| e.to_string()).and_then(|digest| {
                let record: LayerRecord = record::read(&folder.record()).map_err(|e| e.to_string())?;
                if record.diff_id.digest() != &digest {
                    return Err(format!("its record is about {}", record.diff_id));
                }
                if !folder.tree().is_dir() {
                    return Err("it has no content".to_owned());
                }
                Ok(record)
            });
            match read {
                Ok(record) => {
                    layers.insert(record.diff_id.clone(), record);
                }
                Err(why) => {
                    // Not kept for a person to look at: content comes back with the next pull.
                    tracing::warn!(layer = name, why, "a layer cannot be used and is removed");
                    self.discard(&path, &self.layout.layer_trash())?;
                }
            }
        }
        Ok(layers)
    }

    /// Committed in an earlier boot that ended before it was durable.
    fn may_be_damaged(&self, record: &ImageRecord) -> bool {
        record.unsynced_in.as_ref().is_some_and(|boot| boot != clock::boot_id())
    }

    fn set_aside(&self, path: &Path, name: &str, why: &str) -> Result<(), StoreError> {
        let aside = self.layout.set_aside(name, self.number());
        tracing::warn!(
            image = name,
            why,
            kept = %aside.display(),
            "an image cannot be used and is set aside; it will be pulled again when it is wanted"
        );
        fs::rename(path, &aside).map_err(StoreError::at("set aside", path))
    }

    /// Removes layers that a power cut may have damaged.
    fn drop_untrusted(&self, state: &mut State) -> Result<(), StoreError> {
        let untrusted: Vec<DiffId> = state
            .layers
            .values()
            .filter(|layer| layer.boot_id != clock::boot_id() && !state.in_an_image(&layer.diff_id))
            .map(|layer| layer.diff_id.clone())
            .collect();
        for diff in untrusted {
            state.layers.remove(&diff);
            self.discard(self.layout.layer(&diff).path(), &self.layout.layer_trash())?;
        }
        Ok(())
    }
}

fn load_image(
    name: &str,
    folder: &ImageFolder,
    layers: &HashMap<DiffId, LayerRecord>,
) -> Result<Known, String> {
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
    let image = Arc::new(Image::new(&record, config, |diff| layers.get(diff).map_or(0, |layer| layer.bytes)));
    Ok(Known { image, record })
}

/// Leaves each name on the image that got it last.
fn resolve_duplicate_names(records: &mut [Known]) {
    let mut latest: HashMap<String, i64> = HashMap::new();
    for name in records.iter().flat_map(|known| &known.record.names) {
        let since = latest.entry(name.name.clone()).or_insert(name.since);
        *since = (*since).max(name.since);
    }
    for known in records {
        let before = known.record.names.len();
        known.record.names.retain(|name| latest.get(&name.name) == Some(&name.since));
        if known.record.names.len() != before {
            let size = known.image.size;
            let image = Image::new(&known.record, known.image.config.clone(), |_| 0);
            known.image = Arc::new(Image { size, ..image });
        }
    }
}

fn lock(layout: &Layout) -> Result<File, StoreError> {
    let path = layout.lock();
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(StoreError::at("open", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StoreError::InUse(layout.images())),
        Err(TryLockError::Error(e)) => Err(StoreError::at("lock", &path)(e)),
    }
}

/// Asks ext4 to place each new layer apart from the others, where much is free. By default all would be
/// beside their common parent, where for a minute and more after something was deleted each new file
/// has to search past the inodes that the deleted files had: pulling an image again just after it was
/// removed would take ten times as long. Other file systems do not know the flag, and need it not.
fn spread(folder: &Path) {
    if let Ok(folder) = File::open(folder)
        && let Ok(flags) = rustix::fs::ioctl_getflags(&folder)
    {
        let _ = rustix::fs::ioctl_setflags(&folder, flags | IFlags::TOPDIR);
    }
}

/// A number that no temporary folder has, and none had lately: ext4 also looks at the name.
fn first_number(layout: &Layout) -> Result<u64, StoreError> {
    let mut highest = u64::try_from(clock::now() / 1_000_000).unwrap_or_default();
    for folder in [layout.layer_trash(), layout.image_trash(), layout.bad()] {
        for (_, name) in entries(&folder)? {
            let number = name.rsplit('.').next().and_then(|digits| digits.parse().ok());
            highest = highest.max(number.unwrap_or(0));
        }
    }
    Ok(highest + 1)
}

/// The paths and names in a folder. A name that is not UTF-8 is none of ours.
fn entries(folder: &Path) -> Result<Vec<(PathBuf, String)>, StoreError> {
    let read = || -> std::io::Result<Vec<(PathBuf, String)>> {
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
