//! Removes names, images, and layers that nothing needs.

use std::ffi::OsStr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crisp_operation::{clock, record};
use rustix::time::ClockId;

use super::error::StoreError;
use super::image::Removed;
use super::{Inner, Store, sync};
use crate::digest::{DiffId, ImageId};
use crate::layout;
use crate::reference::Reference;

impl Store {
    /// Allows the deletion of layers, and deletes the remains of an earlier server, layers of an earlier boot
    /// that nothing needs, and what earlier servers set aside, except the newest of it. Must be
    /// called once, after the surviving containers have taken their leases again; before that, every layer
    /// stays. A layer that was unpacked since the last boot is kept for the next try of its pull.
    ///
    /// # Errors
    /// A layer cannot be removed.
    pub fn start_collection(&self) -> Result<(), StoreError> {
        let inner = &self.inner;
        let (leftovers, aside, old) = {
            let mut state = inner.state_mut();
            state.collecting = true;
            let old = state.layers.values().filter(|layer| layer.record.boot_id != clock::boot_id());
            let old = old.map(|layer| layer.record.diff_id.clone());
            // Holds may have ended before.
            let old: Vec<DiffId> = old.chain(state.postponed.iter().cloned()).collect();
            (std::mem::take(&mut state.leftovers), std::mem::take(&mut state.aside), old)
        };
        inner.delete_surplus(aside);
        for path in leftovers {
            inner.trash.delete(path);
        }
        inner.collect(&old)
    }

    /// Removes an image with all its names, as CRI's RemoveImage does. Layers that nothing needs are removed
    /// with it, including those of failed pulls; those that a container leases, or that a check or a save
    /// holds, are removed when the lease or the hold ends.
    ///
    /// # Errors
    /// [`StoreError::ImageMissing`], or the record cannot be removed.
    pub fn remove_image(&self, id: &ImageId) -> Result<(), StoreError> {
        let inner = &self.inner;
        let removed = {
            let _writing = inner.writing();
            inner.remove_record(id)?
        };
        // Also after a failed sync: the image is gone, and no retry would collect its layers.
        self.collect_unused().and(removed)
    }

    /// Removes one tag, as `rmi` does. The image is removed with its last tag.
    ///
    /// # Errors
    /// [`StoreError::ImageMissing`] when the image does not exist, or a record cannot be changed.
    pub fn untag(&self, id: &ImageId, tag: &Reference) -> Result<Removed, StoreError> {
        let inner = &self.inner;
        let name = tag.digest().map(|digest| tag.repo_digest(digest)).or_else(|| tag.repo_tag());
        let removed = {
            let _writing = inner.writing();
            let others = {
                let state = inner.state();
                let stored = state.images.get(id).ok_or_else(|| StoreError::ImageMissing(id.clone()))?;
                stored.image.repo_tags.iter().any(|tag| Some(tag) != name.as_ref())
            };
            if others {
                inner.change(id, |record| record.names.retain(|n| Some(&n.name) != name.as_ref()))?;
                return Ok(Removed::Untagged(id.clone()));
            }
            inner.remove_record(id)?
        };
        self.collect_unused().and(removed)?;
        Ok(Removed::Image(id.clone()))
    }

    /// Removes every layer that no image, lease or hold needs, once [collection has
    /// started](Self::start_collection).
    ///
    /// # Errors
    /// A layer cannot be removed.
    pub fn collect_unused(&self) -> Result<(), StoreError> {
        let layers: Vec<DiffId> = self.inner.state().layers.keys().cloned().collect();
        self.inner.collect(&layers)
    }
}

impl Inner {
    /// Deletes what was set aside, except the newest of it and layers of containers that may run: those wait for
    /// a later start.
    fn delete_surplus(&self, aside: [Vec<PathBuf>; 2]) {
        let may_be_used = |path: &Path| {
            let state = self.state();
            let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
            let layer = name.split_once('.').and_then(|(name, _)| layout::digest_of(name).ok());
            state.keep_all > 0 || layer.is_none_or(|digest| state.users.contains_key(&digest.into()))
        };
        let [images, layers] = aside;
        let images = record::surplus_aside(images);
        let layers = surplus_layers(layers, boot_time());
        let images = images.into_iter().map(|path| (path, self.layout.image_trash()));
        let layers = layers.into_iter().filter(|path| !may_be_used(path));
        for (path, trash) in images.chain(layers.map(|path| (path, self.layout.layer_trash()))) {
            match self.discard(&path, &trash) {
                Ok(()) => {
                    tracing::info!(path = %path.display(), "deleted what was set aside: newer ones are kept")
                }
                Err(error) => tracing::warn!(%error, "what was set aside stays until the next start"),
            }
        }
    }

    /// Removes an image, first on disk. The caller has locked `writing`. The inner result tells whether the removal,
    /// which is done, is durable.
    fn remove_record(&self, id: &ImageId) -> Result<Result<(), StoreError>, StoreError> {
        if !self.state().images.contains_key(id) {
            return Err(StoreError::ImageMissing(id.clone()));
        }
        let folder = self.layout.image(id);
        self.discard(folder.path(), &self.layout.image_trash())?;
        // In memory before anything else can fail: the folder is gone.
        {
            let mut state = self.state_mut();
            state.names.retain(|_, owner| owner != id);
            if let Some(removed) = state.images.remove(id) {
                // A check or a save may read them; they are collected when it ends.
                let held = removed.record.lower().iter().filter(|diff| state.users.contains_key(*diff));
                let held: Vec<DiffId> = held.cloned().collect();
                state.postponed.extend(held);
            }
        }
        Ok(sync::folder(&self.layout.images()))
    }

    /// Removes those of `layers` that nothing needs, and replaced damaged copies that nothing uses.
    fn collect(&self, layers: &[DiffId]) -> Result<(), StoreError> {
        // No pull publishes the same layer between the two steps.
        let _writing = self.writing();
        let mut paths: Vec<PathBuf> = Vec::new();
        {
            let mut state = self.state_mut();
            if !state.collecting {
                return Ok(());
            }
            if state.keep_all > 0 {
                state.postponed.extend(layers.iter().cloned());
                return Ok(());
            }
            let superseded = std::mem::take(&mut state.superseded);
            let (kept, unused) = superseded.into_iter().partition(|(diff, _)| state.users.contains_key(diff));
            state.superseded = kept;
            paths.extend(Vec::into_iter(unused).map(|(_, path)| path));
            // Until the next start they may belong to an image that could not be read.
            let layers = if state.has_unread { &[] } else { layers };
            let needed = state.needed_of(layers);
            for diff in layers {
                if !state.users.contains_key(diff) {
                    state.postponed.remove(diff);
                }
                if !needed.contains(diff) && state.layers.remove(diff).is_some() {
                    paths.push(self.layout.layer(diff).path().to_owned());
                }
            }
        }
        let mut result = Ok(());
        for path in paths {
            result = result.and(self.discard(&path, &self.layout.layer_trash()));
        }
        result
    }

    /// Collects on the background thread, for callers that must not wait.
    pub(super) fn collect_later(inner: &Arc<Self>, layers: Vec<DiffId>) {
        let store = Arc::clone(inner);
        inner.trash.run(move || {
            if let Err(e) = store.collect(&layers) {
                tracing::warn!(error = %e, "unused layers stay until the next start");
            }
        });
    }
}

/// Of layers that were set aside, those that may be deleted: all of earlier boots, because a layer can be large
/// and no container of this boot runs on them, and of this boot all but the newest.
fn surplus_layers(aside: Vec<PathBuf>, booted: i64) -> Vec<PathBuf> {
    // The rename was the last change.
    let is_earlier = |path: &PathBuf| path.symlink_metadata().is_ok_and(|data| data.ctime() < booted);
    let (mut earlier, newer): (Vec<PathBuf>, Vec<PathBuf>) = aside.into_iter().partition(is_earlier);
    earlier.extend(record::surplus_aside(newer));
    earlier
}

/// Seconds since 1970.
fn boot_time() -> i64 {
    let clock = |id| rustix::time::clock_gettime(id).tv_sec;
    clock(ClockId::Realtime) - clock(ClockId::Boottime)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_set_aside_in_an_earlier_boot_are_all_surplus() {
        let folder = tempfile::tempdir().unwrap();
        let aside: Vec<PathBuf> = (0..7).map(|n| folder.path().join(format!("{n}"))).collect();
        for path in &aside {
            std::fs::create_dir(path).unwrap();
        }
        assert_eq!(surplus_layers(aside.clone(), boot_time()).len(), 2, "all are of this boot");
        assert_eq!(surplus_layers(aside.clone(), i64::MAX), aside);
    }
}
