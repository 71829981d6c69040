//! Additional names for an image, local images, and access to the store for archives of images.

use std::collections::HashSet;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use crisp_operation::clock;

use super::Store;
use super::commit::Commit;
use super::error::StoreError;
use super::image::{Document, Image};
use super::record::Name;
use crate::digest::{DiffId, ImageId};
use crate::layout;
use crate::reference::Reference;
use crate::unpack::Limits;

/// A local image to commit, which did not come from a registry. Its layers are those in the configuration;
/// all must have been ingested.
#[derive(Debug, Clone)]
pub struct LocalImage {
    /// Its names without those by digest: only a registry can give these.
    pub tags: Vec<Reference>,
    /// A matching manifest.
    pub manifest: Document,
    /// The configuration; its digest is the image id.
    pub config: Document,
}

impl Store {
    /// Gives an image another tag; an image that had the tag loses it.
    ///
    /// # Errors
    /// [`StoreError::ImageMissing`], or a record cannot be written.
    pub fn tag(&self, id: &ImageId, tag: &Reference) -> Result<(), StoreError> {
        let inner = &self.inner;
        let _writing = inner.writing();
        let names: Vec<Name> = named(std::slice::from_ref(tag));
        let losers = inner.holders(&names, id);
        inner.change(id, |record| {
            record.names.retain(|old| names.iter().all(|new| new.name != old.name));
            record.names.extend(names.iter().cloned());
        })?;
        let mut state = inner.state_mut();
        names.iter().for_each(|name| drop(state.names.insert(name.name.clone(), id.clone())));
        drop(state);
        inner.take_names(&losers, &names);
        Ok(())
    }

    /// Commits a local image.
    ///
    /// # Errors
    /// As for [`Self::commit_image`].
    pub fn commit_local(&self, image: LocalImage) -> Result<Arc<Image>, StoreError> {
        let names = named(&image.tags);
        self.commit(&Commit { names, manifest: image.manifest, config: image.config })
    }

    /// The exact bytes of an image's configuration.
    ///
    /// # Errors
    /// [`StoreError::ImageMissing`], or the file cannot be read.
    pub fn image_config(&self, id: &ImageId) -> Result<Vec<u8>, StoreError> {
        if self.image(id).is_none() {
            return Err(StoreError::ImageMissing(id.clone()));
        }
        let path = self.inner.layout.image(id).config();
        fs::read(&path).map_err(StoreError::at("read", &path))
    }

    /// The folder of an unpacked layer. It stays while a [`Hold`](super::Hold) has the layer.
    ///
    /// # Errors
    /// [`StoreError::LayerMissing`].
    pub fn layer_tree(&self, diff: &DiffId) -> Result<PathBuf, StoreError> {
        if !self.has_layer(diff) {
            return Err(StoreError::LayerMissing(diff.clone()));
        }
        Ok(self.inner.layout.layer(diff).tree())
    }

    /// The directories that a layer's archive uses but lacks.
    pub(crate) fn implied(&self, diff: &DiffId) -> HashSet<Vec<u8>> {
        let state = self.inner.state();
        let record = state.layers.get(diff).map(|layer| &layer.record);
        let paths = record.into_iter().flat_map(|record| record.implied.iter().chain(&record.inherited));
        paths.map(|path| path.clone().into_bytes()).collect()
    }

    /// Whether a layer hides all layers below it.
    pub(crate) fn has_opaque_root(&self, diff: &DiffId) -> bool {
        self.inner.state().hides_below(diff)
    }

    /// Limits for an archive.
    pub(crate) fn limits(&self) -> &Limits {
        &self.inner.limits
    }

    /// A new folder that the next server deletes.
    pub(crate) fn temporary_folder(&self) -> Result<PathBuf, StoreError> {
        let inner = &self.inner;
        let folder = layout::numbered(&inner.layout.new_images(), inner.number());
        fs::create_dir(&folder).map_err(StoreError::at("create", &folder))?;
        Ok(folder)
    }
}

fn named(tags: &[Reference]) -> Vec<Name> {
    let since = clock::now();
    tags.iter().filter_map(Reference::repo_tag).map(|name| Name { name, since }).collect()
}
