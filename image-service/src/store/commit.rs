//! Adding an image: its record says that it exists, and soon it is durable.

use std::fs;
use std::sync::Arc;

use crisp_operation::clock;
use crisp_operation::record::{Durability, write_file};
use oci_spec::image::ImageConfiguration;

use super::config;
use super::error::StoreError;
use super::image::{Image, NewImage};
use super::record::{self, ImageRecord, Name};
use super::{Inner, Known, Store};
use crate::digest::{DiffId, ImageId};
use crate::layout::{ImageFolder, numbered};

impl Store {
    /// Commits an image whose layers have all been ingested, and gives it its names: the tag asked for,
    /// and `name@digest` of what it resolved to. A name that another image had moves here.
    ///
    /// The image can be used at once; [`sync`](Self::sync) follows in the background.
    ///
    /// # Errors
    /// [`StoreError::LayerMissing`] when a layer was never ingested or has been collected, and whatever
    /// keeps the record from being written.
    pub fn commit_image(&self, image: NewImage) -> Result<Arc<Image>, StoreError> {
        for (what, document) in [("manifest", &image.manifest), ("configuration", &image.config)] {
            if !document.digest.matches(&document.bytes) {
                return Err(StoreError::WrongDigest { what, digest: document.digest.clone() });
            }
        }
        let id = ImageId::from(image.config.digest.clone());
        let config = config::parse(id.digest(), &image.config.bytes)?;
        let layers = config::layers(&id, &config)?;
        let _wanted = self.hold(&layers);
        let inner = &self.inner;
        let _writing = inner.writing();
        inner.all_there(&layers)?;
        inner.inherit(&layers)?;
        let known = match inner.renew(&id, &image) {
            Some(record) => inner.rewrite(record, &image, config)?,
            None => inner.create(id, &image, layers, config)?,
        };
        let image = inner.admit(known);
        Inner::sync_later(inner);
        Ok(image)
    }

    /// Pins or unpins an image: whoever frees disk space leaves pinned ones alone.
    ///
    /// # Errors
    /// [`StoreError::ImageMissing`], or the record cannot be written.
    pub fn set_pinned(&self, id: &ImageId, pinned: bool) -> Result<(), StoreError> {
        let inner = &self.inner;
        let _writing = inner.writing();
        inner.change(id, |record| record.pinned = pinned)
    }
}

impl Inner {
    fn all_there(&self, layers: &[DiffId]) -> Result<(), StoreError> {
        let state = self.state();
        match layers.iter().find(|diff| !state.layers.contains_key(diff)) {
            Some(missing) => Err(StoreError::LayerMissing(missing.clone())),
            None => Ok(()),
        }
    }

    /// The record of an image that is already there, with the new names.
    fn renew(&self, id: &ImageId, image: &NewImage) -> Option<ImageRecord> {
        let mut record = self.state().images.get(id)?.record.clone();
        let names = names_of(image);
        record.names.retain(|old| names.iter().all(|new| new.name != old.name));
        record.names.extend(names);
        record.manifest = image.manifest.digest.clone();
        Some(record)
    }

    fn rewrite(
        &self,
        record: ImageRecord,
        image: &NewImage,
        config: ImageConfiguration,
    ) -> Result<Known, StoreError> {
        let folder = self.layout.image(&record.id);
        write_file(&folder.manifest(), &image.manifest.bytes, 0o600, Durability::PowerCut)
            .map_err(StoreError::at("write", &folder.manifest()))?;
        record::replace(&folder.record(), &record)?;
        Ok(self.known(record, config))
    }

    fn create(
        &self,
        id: ImageId,
        image: &NewImage,
        layers: Vec<DiffId>,
        config: ImageConfiguration,
    ) -> Result<Known, StoreError> {
        let record = ImageRecord {
            id,
            manifest: image.manifest.digest.clone(),
            names: names_of(image),
            layers,
            unsynced_in: Some(clock::boot_id().to_owned()),
            pinned: false,
            pulled_at: clock::now(),
        };
        let folder = ImageFolder(numbered(&self.layout.new_images(), self.number()));
        let home = self.layout.image(&record.id);
        let write = || {
            fs::create_dir(folder.path()).map_err(StoreError::at("create", folder.path()))?;
            for (path, document) in [(folder.config(), &image.config), (folder.manifest(), &image.manifest)] {
                fs::write(&path, &document.bytes).map_err(StoreError::at("write", &path))?;
            }
            record::write_new(&folder.record(), &record)?;
            self.discard(home.path(), &self.layout.image_trash())?;
            fs::rename(folder.path(), home.path()).map_err(StoreError::at("publish", home.path()))
        };
        if let Err(error) = write() {
            // What stays after a second failure goes at the next start.
            let _ = self.discard(folder.path(), &self.layout.image_trash());
            return Err(error);
        }
        Ok(self.known(record, config))
    }

    fn known(&self, record: ImageRecord, config: ImageConfiguration) -> Known {
        let state = self.state();
        let bytes = |diff: &DiffId| state.layers.get(diff).map_or(0, |layer| layer.bytes);
        Known { image: Arc::new(Image::new(&record, config, bytes)), record }
    }

    /// Makes a written image visible and takes its names from those that had them before.
    fn admit(&self, known: Known) -> Arc<Image> {
        let image = Arc::clone(&known.image);
        let losers: Vec<ImageId> = {
            let state = self.state();
            let holders = known.record.names.iter().filter_map(|name| state.names.get(&name.name));
            let mut losers: Vec<ImageId> = holders.filter(|id| **id != image.id).cloned().collect();
            losers.sort_unstable();
            losers.dedup();
            losers
        };
        let taken: Vec<String> = known.record.names.iter().map(|name| name.name.clone()).collect();
        self.state_mut().adopt(known);
        for id in losers {
            // Should this fail, the later date of the name decides at the next start.
            if let Err(e) = self.change(&id, |record| record.names.retain(|n| !taken.contains(&n.name))) {
                tracing::warn!(image = %id, error = %e, "a moved tag is still in the old image's record");
            }
        }
        image
    }

    /// Changes a record on disk, then in memory. The caller holds `writing`.
    pub(super) fn change(&self, id: &ImageId, edit: impl FnOnce(&mut ImageRecord)) -> Result<(), StoreError> {
        let (mut record, image) = {
            let state = self.state();
            let known = state.images.get(id).ok_or_else(|| StoreError::ImageMissing(id.clone()))?;
            (known.record.clone(), Arc::clone(&known.image))
        };
        edit(&mut record);
        record::replace(&self.layout.image(id).record(), &record)?;
        let known = self.known(record, image.config.clone());
        let mut state = self.state_mut();
        state.names.retain(|name, owner| owner != id || known.record.names.iter().any(|n| &n.name == name));
        state.images.insert(id.clone(), known);
        Ok(())
    }
}

fn names_of(image: &NewImage) -> Vec<Name> {
    let since = clock::now();
    let tag = image.reference.repo_tag();
    let digest = Some(image.reference.repo_digest(&image.resolved));
    tag.into_iter().chain(digest).map(|name| Name { name, since }).collect()
}
