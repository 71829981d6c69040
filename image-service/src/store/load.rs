//! Loads images and layers at the start: damaged ones are set aside, unreadable ones stay.

use std::collections::HashMap;
use std::fmt::Display;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crisp_operation::clock;
use crisp_operation::record::{self, RecordError};

use super::damage_list::Damaged;
use super::error::StoreError;
use super::image::Image;
use super::record::{ImageRecord, LayerRecord};
use super::{Health, Inner, State, StoredImage, StoredLayer, config};
use crate::digest::DiffId;
use crate::layout::{self, ImageFolder, LayerFolder};

impl Inner {
    pub(super) fn load_images(&self, state: &mut State) -> Result<Vec<StoredImage>, StoreError> {
        let mut images = Vec::new();
        for (path, name) in entries(&self.layout.images())? {
            if is_foreign(&path, &name) {
                continue;
            }
            match self.load_image(&name, &ImageFolder(path.clone()), state) {
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
                Err(Unusable::Damaged(why)) => {
                    self.set_aside_found(&path, &self.layout.bad_images(), &name, &why);
                }
                Err(Unusable::Unreadable(why)) => {
                    tracing::error!(path = %path.display(), why, "{NOT_READ}");
                    state.has_unread = true;
                }
            }
        }
        Ok(images)
    }

    fn load_image(&self, name: &str, folder: &ImageFolder, state: &State) -> Result<StoredImage, Unusable> {
        let damaged = |why: &dyn Display| Unusable::Damaged(why.to_string());
        let digest = layout::digest_of(name).map_err(|e| damaged(&e))?;
        let record: ImageRecord = record::read(&folder.record())?;
        if record.id.digest() != &digest {
            return Err(Unusable::Damaged(format!("its record is about {}", record.id)));
        }
        let bytes = fs::read(folder.config()).map_err(|e| Unusable::reading("its configuration", &e))?;
        if !digest.matches(&bytes) {
            return Err(Unusable::Damaged("its configuration is damaged".to_owned()));
        }
        if let Some(missing) = record.lower().iter().find(|diff| !state.layers.contains_key(diff)) {
            let why = format!("layer {missing} is missing");
            // Perhaps its layer could not be read.
            let there = self.layout.layer(missing).path().exists();
            return Err(if there { Unusable::Unreadable(why) } else { Unusable::Damaged(why) });
        }
        let config = config::parse(&digest, &bytes).map_err(|e| damaged(&e))?;
        let bytes = |diff: &DiffId| state.layers.get(diff).map_or(0, |layer| layer.record.bytes);
        let image = Arc::new(Image::new(&record, config, bytes));
        Ok(StoredImage { image, record, version: self.number() })
    }

    pub(super) fn load_layers(&self, state: &mut State) -> Result<(), StoreError> {
        for (path, name) in entries(&self.layout.layers())? {
            if is_foreign(&path, &name) {
                continue;
            }
            match load_layer(&name, &LayerFolder(path.clone())) {
                Ok(record) => {
                    let mut record = record;
                    record.damaged |= self.damage_list.contains(&Damaged::Layer(record.diff_id.clone()));
                    let health = match (record.damaged, record.boot_id == clock::boot_id()) {
                        (true, _) => Health::Damaged,
                        (false, true) => Health::Unchecked,
                        (false, false) => Health::Unsynced,
                    };
                    let layer = StoredLayer { record, health, version: self.number() };
                    state.layers.insert(layer.record.diff_id.clone(), layer);
                }
                Err(Unusable::Damaged(why)) => {
                    self.set_aside_found(&path, &self.layout.bad_layers(), &name, &why);
                }
                Err(Unusable::Unreadable(why)) => {
                    tracing::error!(path = %path.display(), why, "{NOT_READ}");
                }
            }
        }
        Ok(())
    }

    /// Whether the boot or the disk ended before the image was durable.
    fn may_be_incomplete(&self, record: &ImageRecord) -> bool {
        record.unsynced_in.as_ref().is_some_and(|boot| boot != clock::boot_id())
            || self.damage_list.contains(&Damaged::Image(record.id.clone()))
    }

    /// A disk that refuses must not keep the server from starting: folders that stay are set aside when their
    /// place is needed.
    fn set_aside_found(&self, path: &Path, to: &Path, name: &str, why: &str) {
        tracing::warn!(path = %path.display(), why, "found something that cannot be used");
        if let Err(error) = self.set_aside(path, to, name) {
            tracing::error!(%error, "it stays where it is");
        }
    }
}

/// The reason why a folder cannot be used at the start.
enum Unusable {
    /// Its content is not valid; it is set aside.
    Damaged(String),
    /// It could not be read now and may be valid: it stays.
    Unreadable(String),
}

const NOT_READ: &str =
    "could not be read: it is not used, and tried again at the next start; pulling replaces it";

impl Unusable {
    fn reading(what: &str, error: &io::Error) -> Self {
        let why = format!("{what}: {error}");
        match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Self::Damaged(why),
            _ => Self::Unreadable(why),
        }
    }
}

impl From<RecordError> for Unusable {
    fn from(error: RecordError) -> Self {
        match error {
            RecordError::Io { path, source } => Self::reading(&path.to_string_lossy(), &source),
            RecordError::Damaged { .. } | RecordError::Newer { .. } => Self::Damaged(error.to_string()),
        }
    }
}

fn load_layer(name: &str, folder: &LayerFolder) -> Result<LayerRecord, Unusable> {
    let digest = layout::digest_of(name).map_err(|e| Unusable::Damaged(e.to_string()))?;
    let record: LayerRecord = record::read(&folder.record())?;
    if record.diff_id.digest() != &digest {
        return Err(Unusable::Damaged(format!("its record is about {}", record.diff_id)));
    }
    match fs::symlink_metadata(folder.tree()) {
        Ok(tree) if tree.is_dir() => Ok(record),
        Ok(_) => Err(Unusable::Damaged("its content is not a folder".to_owned())),
        Err(error) => Err(Unusable::reading("its content", &error)),
    }
}

/// Keeps each name only on the image that got it last.
pub(super) fn resolve_duplicate_names(images: &mut [StoredImage]) {
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

/// Neither an image nor a layer, but one of the folders beside them, or of the file system itself.
fn is_foreign(path: &Path, name: &str) -> bool {
    if layout::digest_of(name).is_ok() {
        return false;
    }
    if !name.starts_with('.') && name != "lost+found" {
        tracing::warn!(path = %path.display(), "not a folder of the image store; left alone");
    }
    true
}

/// The paths and names in a folder. All names in the store are UTF-8.
pub(super) fn entries(folder: &Path) -> Result<Vec<(PathBuf, String)>, StoreError> {
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
