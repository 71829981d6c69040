//! Adds an image: its record makes it visible, and soon it is durable.

use std::fs;
use std::sync::Arc;

use crisp_operation::clock;
use crisp_operation::record::{Durability, write_file};
use oci_spec::image::ImageConfiguration;

use super::config;
use super::damage_list::Damaged;
use super::error::StoreError;
use super::image::{Document, Image, NewImage};
use super::record::{self, ImageRecord, Name};
use super::{Inner, Store, StoredImage, StoredLayer, exchange};
use crate::digest::{DiffId, ImageId};
use crate::layout::{ImageFolder, numbered};

/// A commit: the documents and names of an image.
pub(super) struct Commit {
    pub names: Vec<Name>,
    pub manifest: Document,
    pub config: Document,
}

impl Store {
    /// Commits an image whose layers have all been ingested, and gives it its names: the requested tag, and
    /// `name@digest` of the resolved digest. A name of another image moves to this one.
    ///
    /// The image can be used at once; [`sync`](Self::sync) follows in the background.
    ///
    /// # Errors
    /// [`StoreError::LayerMissing`] when a layer was never ingested or has been collected, or the record
    /// cannot be written.
    pub fn commit_image(&self, image: NewImage) -> Result<Arc<Image>, StoreError> {
        let names = names_of(&image);
        self.commit(&Commit { names, manifest: image.manifest, config: image.config })
    }

    pub(super) fn commit(&self, image: &Commit) -> Result<Arc<Image>, StoreError> {
        for (what, document) in [("manifest", &image.manifest), ("configuration", &image.config)] {
            if !document.digest.matches(&document.bytes) {
                return Err(StoreError::WrongDigest { what, digest: document.digest.clone() });
            }
        }
        let id = ImageId::from(image.config.digest.clone());
        let config = config::parse(id.digest(), &image.config.bytes)?;
        let layers = config::layers(&id, &config)?;
        let _hold = self.hold(&layers);
        let inner = &self.inner;
        inner.all_there(&layers)?;
        let lower = self.with_own_layers(&layers)?;
        let with_own_layers = if lower.layers == layers { Vec::new() } else { lower.layers.clone() };
        let _writing = inner.writing();
        inner.all_there(&lower.layers)?;
        let stored = match inner.renamed(&id, image) {
            Some(record) if record.unsynced_in.is_none() && record.with_own_layers == with_own_layers => {
                inner.rewrite(record, image, config)?
            }
            // Its files or layers may not have reached the disk, so all of them are written again.
            Some(record) => inner.create(ImageRecord { with_own_layers, ..record }, image, config)?,
            None => {
                let record = ImageRecord { with_own_layers, ..new_record(id, image, layers) };
                inner.create(record, image, config)?
            }
        };
        let image = inner.publish_image(stored);
        Inner::sync_later(inner);
        Ok(image)
    }
}

impl Inner {
    fn all_there(&self, layers: &[DiffId]) -> Result<(), StoreError> {
        let state = self.state();
        match layers.iter().find(|diff| !state.layers.get(diff).is_some_and(StoredLayer::is_usable)) {
            Some(missing) => Err(StoreError::LayerMissing(missing.clone())),
            None => Ok(()),
        }
    }

    /// The record of an existing image with the new names.
    fn renamed(&self, id: &ImageId, image: &Commit) -> Option<ImageRecord> {
        let mut record = self.state().images.get(id)?.record.clone();
        let names = image.names.clone();
        record.names.retain(|old| names.iter().all(|new| new.name != old.name));
        record.names.extend(names);
        record.manifest = image.manifest.digest.clone();
        Some(record)
    }

    fn rewrite(
        &self,
        record: ImageRecord,
        image: &Commit,
        config: ImageConfiguration,
    ) -> Result<StoredImage, StoreError> {
        let folder = self.layout.image(&record.id);
        write_file(&folder.manifest(), &image.manifest.bytes, 0o600, Durability::PowerCut)
            .map_err(StoreError::at("write", &folder.manifest()))?;
        record::replace(&folder.record(), &record)?;
        Ok(self.stored(record, config))
    }

    fn create(
        &self,
        record: ImageRecord,
        image: &Commit,
        config: ImageConfiguration,
    ) -> Result<StoredImage, StoreError> {
        let record = ImageRecord { unsynced_in: Some(clock::boot_id().to_owned()), ..record };
        let folder = ImageFolder(numbered(&self.layout.new_images(), self.number()));
        let home = self.layout.image(&record.id);
        let write = || {
            fs::create_dir(folder.path()).map_err(StoreError::at("create", folder.path()))?;
            for (path, document) in [(folder.config(), &image.config), (folder.manifest(), &image.manifest)] {
                fs::write(&path, &document.bytes).map_err(StoreError::at("write", &path))?;
            }
            record::write_new(&folder.record(), &record)?;
            if self.state().images.contains_key(&record.id) {
                // In one step: if the server dies meanwhile, either the old or the new image is there.
                exchange::exchange_or_rename(folder.path(), home.path())
            } else {
                self.set_aside(home.path(), &self.layout.bad_images(), record.id.hex())?;
                fs::rename(folder.path(), home.path())
            }
            .map_err(StoreError::at("publish", home.path()))
        };
        let written = write();
        // The copy before, or the rest of a failure. After a second failure, the next start removes it.
        let _ = self.discard(folder.path(), &self.layout.image_trash());
        written?;
        self.damage_list.remove(&Damaged::Image(record.id.clone()));
        Ok(self.stored(record, config))
    }

    fn stored(&self, record: ImageRecord, config: ImageConfiguration) -> StoredImage {
        let state = self.state();
        let bytes = |diff: &DiffId| state.layers.get(diff).map_or(0, |layer| layer.record.bytes);
        StoredImage { image: Arc::new(Image::new(&record, config, bytes)), record, version: self.number() }
    }

    /// Makes a written image visible and takes its names from those that had them before.
    fn publish_image(&self, stored: StoredImage) -> Arc<Image> {
        let image = Arc::clone(&stored.image);
        let names = stored.record.names.clone();
        let losers = self.holders(&names, &image.id);
        self.state_mut().insert(stored);
        self.take_names(&losers, &names);
        image
    }

    /// The images other than `id` that have one of the names.
    pub(super) fn holders(&self, names: &[Name], id: &ImageId) -> Vec<ImageId> {
        let state = self.state();
        let holders = names.iter().filter_map(|name| state.names.get(&name.name));
        let mut holders: Vec<ImageId> = holders.filter(|holder| *holder != id).cloned().collect();
        holders.sort_unstable();
        holders.dedup();
        holders
    }

    /// Takes names from the images that had them before.
    pub(super) fn take_names(&self, losers: &[ImageId], names: &[Name]) {
        for id in losers {
            let is_taken = |name: &Name| names.iter().any(|taken| taken.name == name.name);
            // If this fails, the later date of the name decides at the next start.
            if let Err(e) = self.change(id, |record| record.names.retain(|name| !is_taken(name))) {
                tracing::warn!(image = %id, error = %e, "a moved tag is still in the old image's record");
            }
        }
    }

    /// Changes a record on disk, then in memory. The caller has locked `writing`.
    pub(super) fn change(&self, id: &ImageId, edit: impl FnOnce(&mut ImageRecord)) -> Result<(), StoreError> {
        let changed = self.changed(id, edit)?;
        record::replace(&self.layout.image(id).record(), &changed.record)?;
        self.show(changed);
        Ok(())
    }

    /// The image after a change, which is neither on disk nor in memory yet.
    pub(super) fn changed(
        &self,
        id: &ImageId,
        edit: impl FnOnce(&mut ImageRecord),
    ) -> Result<StoredImage, StoreError> {
        let (mut record, image, version) = {
            let state = self.state();
            let stored = state.images.get(id).ok_or_else(|| StoreError::ImageMissing(id.clone()))?;
            (stored.record.clone(), Arc::clone(&stored.image), stored.version)
        };
        edit(&mut record);
        // The same commit as before.
        Ok(StoredImage { version, ..self.stored(record, image.config.clone()) })
    }

    /// Puts a changed image into memory.
    pub(super) fn show(&self, changed: StoredImage) {
        let id = changed.record.id.clone();
        let mut state = self.state_mut();
        state.names.retain(|name, owner| {
            *owner != id || changed.record.names.iter().any(|known| &known.name == name)
        });
        state.images.insert(id, changed);
    }
}

fn new_record(id: ImageId, image: &Commit, layers: Vec<DiffId>) -> ImageRecord {
    ImageRecord {
        id,
        manifest: image.manifest.digest.clone(),
        names: image.names.clone(),
        layers,
        with_own_layers: Vec::new(),
        unsynced_in: None,
        pinned: false,
        pulled_at: clock::now(),
    }
}

fn names_of(image: &NewImage) -> Vec<Name> {
    let since = clock::now();
    let tag = image.reference.repo_tag();
    let digest = Some(image.reference.repo_digest(&image.resolved));
    tag.into_iter().chain(digest).map(|name| Name { name, since }).collect()
}
