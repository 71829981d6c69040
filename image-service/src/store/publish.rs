//! Publishes an unpacked layer.

use std::fs;
use std::path::Path;

use crisp_operation::clock;

use super::damage_list::Damaged;
use super::error::StoreError;
use super::exchange::exchange;
use super::record::{self, LayerRecord};
use super::{Health, Inner, StoredLayer};
use crate::digest::DiffId;
use crate::layout::{self, LayerFolder};
use crate::unpack::Unpacked;

/// The result of publishing a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Published {
    Done,
    /// Another pull had already published the layer; this copy is not needed.
    Duplicate,
}

impl Inner {
    /// Publishes a verified layer. `failures` is the number of failed syncs at the time when its first byte
    /// was written.
    pub(super) fn publish(
        &self,
        folder: &LayerFolder,
        diff: &DiffId,
        unpacked: &Unpacked,
        failures: u64,
    ) -> Result<Published, StoreError> {
        let record = LayerRecord {
            diff_id: diff.clone(),
            bytes: unpacked.on_disk.bytes,
            inodes: unpacked.on_disk.inodes,
            opaque_root: unpacked.opaque_root,
            implied: unpacked.implied.clone(),
            inherited: Vec::new(),
            checksum: Some(unpacked.on_disk.checksum),
            damaged: false,
            boot_id: clock::boot_id().to_owned(),
        };
        record::write_new(&folder.record(), &record)?;
        let mut synced = false;
        loop {
            let writing = self.writing();
            if self.file_systems.failures() != failures {
                return Err(StoreError::LostWrites(folder.path().to_owned()));
            }
            let found = self.state().layers.get(diff).map(StoredLayer::is_usable);
            match found {
                Some(true) => return Ok(Published::Duplicate),
                None => self.publish_new(folder, diff)?,
                // Images that count as durable name the layer.
                Some(false) if !synced => {
                    drop(writing);
                    self.sync_content()?;
                    synced = true;
                    continue;
                }
                Some(false) => self.replace_damaged(folder, diff)?,
            }
            let layer = StoredLayer { record, health: Health::Sound, version: self.number() };
            self.state_mut().layers.insert(diff.clone(), layer);
            self.damage_list.remove(&Damaged::Layer(diff.clone()));
            return Ok(Published::Done);
        }
    }

    fn publish_new(&self, folder: &LayerFolder, diff: &DiffId) -> Result<(), StoreError> {
        let home = self.layout.layer(diff);
        // It exists but is not loaded: it could not be set aside at the start, and containers may run on it.
        self.set_aside(home.path(), &self.layout.bad_layers(), diff.hex())?;
        fs::rename(folder.path(), home.path()).map_err(StoreError::at("publish", home.path()))
    }

    /// Replaces a damaged tree with the new one. Containers that run on the old one keep it.
    fn replace_damaged(&self, folder: &LayerFolder, diff: &DiffId) -> Result<(), StoreError> {
        let home = self.layout.layer(diff);
        let aside = layout::named(&self.layout.superseded(), diff.hex(), self.number());
        // First renamed to the future path of the old tree: if the server dies between the two steps, nothing
        // is left that a later server would delete under a container.
        fs::rename(folder.path(), &aside).map_err(StoreError::at("publish", &aside))?;
        self.state_mut().superseded.push((diff.clone(), aside.clone()));
        exchange(&aside, home.path()).map_err(StoreError::at("publish", home.path()))?;
        super::sync::folder(&self.layout.layers())?;
        tracing::info!(layer = %diff, "a damaged layer was replaced by a new copy");
        Ok(())
    }

    /// Moves an unusable folder aside with its content. A missing one is not an error.
    pub(super) fn set_aside(&self, path: &Path, to: &Path, name: &str) -> Result<(), StoreError> {
        let aside = layout::named(to, name, self.number());
        match fs::rename(path, &aside) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(StoreError::at("set aside", path)(e)),
            Ok(()) => {
                tracing::warn!(path = %path.display(), kept = %aside.display(), "set aside what cannot be used");
                Ok(())
            }
        }
    }
}
