//! Taking names and images away.

use std::sync::Arc;

use super::error::StoreError;
use super::image::Removed;
use super::{Inner, Store, sync};
use crate::digest::{DiffId, ImageId};
use crate::reference::Reference;

impl Store {
    /// Removes an image with all its names, as CRI's RemoveImage does. Layers that nothing wants go with
    /// it, also those that failed pulls left; those that a container leases go when it does.
    ///
    /// # Errors
    /// [`StoreError::ImageMissing`], or the record cannot be taken away.
    pub fn remove_image(&self, id: &ImageId) -> Result<(), StoreError> {
        let inner = &self.inner;
        {
            let _writing = inner.writing();
            inner.forget(id)?;
        }
        self.collect_unused()
    }

    /// Removes one tag, as `rmi` does. The image goes with its last tag.
    ///
    /// # Errors
    /// [`StoreError::ImageMissing`] when the image does not exist, or a record cannot be changed.
    pub fn untag(&self, id: &ImageId, tag: &Reference) -> Result<Removed, StoreError> {
        let inner = &self.inner;
        let name = tag.digest().map(|digest| tag.repo_digest(digest)).or_else(|| tag.repo_tag());
        {
            let _writing = inner.writing();
            let others = {
                let state = inner.state();
                let known = state.images.get(id).ok_or_else(|| StoreError::ImageMissing(id.clone()))?;
                known.image.repo_tags.iter().any(|tag| Some(tag) != name.as_ref())
            };
            if others {
                inner.change(id, |record| record.names.retain(|n| Some(&n.name) != name.as_ref()))?;
                return Ok(Removed::Untagged(id.clone()));
            }
            inner.forget(id)?;
        }
        self.collect_unused()?;
        Ok(Removed::Image(id.clone()))
    }

    /// Removes every layer that no image, lease or hold wants. For a start, once the containers that
    /// survived have taken their leases again.
    ///
    /// # Errors
    /// A layer cannot be taken away.
    pub fn collect_unused(&self) -> Result<(), StoreError> {
        let layers: Vec<DiffId> = self.inner.state().layers.keys().cloned().collect();
        self.inner.collect(&layers)
    }
}

impl Inner {
    /// Takes an image away, on disk first. The caller holds `writing`.
    fn forget(&self, id: &ImageId) -> Result<(), StoreError> {
        if !self.state().images.contains_key(id) {
            return Err(StoreError::ImageMissing(id.clone()));
        }
        let folder = self.layout.image(id);
        self.discard(folder.path(), &self.layout.image_trash())?;
        sync::folder(&self.layout.images())?;
        let mut state = self.state_mut();
        state.names.retain(|_, owner| owner != id);
        state.images.remove(id);
        Ok(())
    }

    /// Removes those of `layers` that nothing wants.
    fn collect(&self, layers: &[DiffId]) -> Result<(), StoreError> {
        // Nobody publishes the same layer between forgetting and renaming it.
        let _writing = self.writing();
        let unwanted: Vec<DiffId> = {
            let mut state = self.state_mut();
            let unwanted: Vec<DiffId> = layers.iter().filter(|diff| !state.needs(diff)).cloned().collect();
            unwanted.into_iter().filter(|diff| state.layers.remove(diff).is_some()).collect()
        };
        let mut result = Ok(());
        for diff in unwanted {
            let away = self.discard(self.layout.layer(&diff).path(), &self.layout.layer_trash());
            result = result.and(away);
        }
        result
    }

    /// Collects on the deleter's thread, for those who must not wait.
    pub(super) fn collect_later(inner: &Arc<Self>, layers: Vec<DiffId>) {
        let store = Arc::clone(inner);
        inner.trash.run(move || {
            if let Err(e) = store.collect(&layers) {
                tracing::warn!(error = %e, "unused layers stay until the next start");
            }
        });
    }
}
