//! Lists layers and images that must be pulled again, even if the disk refuses to record that.
//!
//! A damaged layer and an image whose sync failed are marked in their own records. The failing disk may
//! refuse these writes too: then the damage is listed in the state folder, which is in memory and lasts until
//! the reboot, so that the next server of this boot does not trust the page cache. After a reboot the list is
//! not needed: content that was not durable is not trusted then.

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crisp_operation::record::{self as records, Durability, Record};
use crisp_operation::{clock, fault};
use serde::{Deserialize, Serialize};

use super::error::StoreError;
use super::{Health, Inner, Store, record};
use crate::digest::{DiffId, ImageId};

/// Stands in the place of a boot id: it matches no boot, so that the image is pulled again after the next
/// start.
const SYNC_FAILED: &str = "sync failed";

/// A damaged object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Damaged {
    /// The layer is damaged.
    Layer(DiffId),
    /// The disk failed before the image was durable.
    Image(ImageId),
}

/// Damage that is not in the records of the layers and images.
#[derive(Debug)]
pub(super) struct DamageList {
    path: Option<PathBuf>,
    unwritten: Mutex<BTreeSet<Damaged>>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct DamageRecord {
    boot_id: String,
    damaged: BTreeSet<Damaged>,
}

impl Record for DamageRecord {
    const KIND: &'static str = "list of damage";
}

impl DamageList {
    /// The list that an earlier server of this boot left at `path`.
    pub(super) fn open(path: Option<PathBuf>) -> Self {
        let found = match path.as_deref().map(records::read::<DamageRecord>) {
            Some(Ok(record)) if record.boot_id == clock::boot_id() => record.damaged,
            Some(Err(error)) if !error.is_missing() => {
                tracing::warn!(%error, "cannot read which images and layers were damaged");
                BTreeSet::new()
            }
            _ => BTreeSet::new(),
        };
        Self { path, unwritten: Mutex::new(found) }
    }

    pub(super) fn contains(&self, damaged: &Damaged) -> bool {
        self.lock().contains(damaged)
    }

    /// Removes an entry, because the object was replaced or its own record has the damage.
    pub(super) fn remove(&self, damaged: &Damaged) {
        let mut unwritten = self.lock();
        if unwritten.remove(damaged) {
            self.write(&unwritten);
        }
    }

    fn add(&self, damaged: Damaged) {
        let mut unwritten = self.lock();
        if unwritten.insert(damaged) {
            self.write(&unwritten);
        }
    }

    fn all(&self) -> BTreeSet<Damaged> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<Damaged>> {
        self.unwritten.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, damaged: &BTreeSet<Damaged>) {
        let Some(path) = &self.path else { return };
        let record = DamageRecord { boot_id: clock::boot_id().to_owned(), damaged: damaged.clone() };
        if let Err(error) = records::write(path, &record, Durability::Process) {
            tracing::error!(%error, "the next start of the server does not know what is damaged");
        }
    }
}

impl Store {
    /// Whether the disk failed before this image was durable: it is usable until the next start of the
    /// server, and a pull must write it again.
    #[must_use]
    pub fn is_sync_failed(&self, id: &ImageId) -> bool {
        let state = self.inner.state();
        state.images.get(id).is_some_and(|stored| stored.record.unsynced_in.as_deref() == Some(SYNC_FAILED))
    }
}

impl Inner {
    /// Records, first in memory, that a layer must be unpacked again. The caller has locked `writing`.
    pub(super) fn mark_damaged(&self, diff: &DiffId) {
        if let Some(layer) = self.state_mut().layers.get_mut(diff) {
            layer.health = Health::Damaged;
            layer.record.damaged = true;
        }
        self.write_damage(Damaged::Layer(diff.clone()));
    }

    /// Records, first in memory, that an image must be pulled again. The caller has locked `writing`.
    pub(super) fn mark_sync_failed(&self, id: &ImageId) {
        if let Ok(changed) = self.changed(id, |record| record.unsynced_in = Some(SYNC_FAILED.to_owned())) {
            self.show(changed);
        }
        self.write_damage(Damaged::Image(id.clone()));
    }

    /// Tries again to write records that the disk refused.
    pub(super) fn retry_damage_records(&self) {
        for damaged in self.damage_list.all() {
            let _writing = self.writing();
            if self.damage_list.contains(&damaged) {
                self.write_damage(damaged);
            }
        }
    }

    fn write_damage(&self, damaged: Damaged) {
        let written = match &damaged {
            Damaged::Layer(diff) => self.write_damaged(diff),
            Damaged::Image(id) => self.write_sync_failed(id),
        };
        match written {
            Ok(()) => self.damage_list.remove(&damaged),
            Err(error) => {
                tracing::error!(%error, ?damaged, "cannot note on disk that it must be pulled again");
                self.damage_list.add(damaged);
            }
        }
    }

    fn write_damaged(&self, diff: &DiffId) -> Result<(), StoreError> {
        let Some(record) = self.state().layers.get(diff).map(|layer| layer.record.clone()) else {
            return Ok(());
        };
        self.replace_damaged_record(&self.layout.layer(diff).record(), &record)
    }

    fn write_sync_failed(&self, id: &ImageId) -> Result<(), StoreError> {
        let Some(record) = self.state().images.get(id).map(|stored| stored.record.clone()) else {
            return Ok(());
        };
        self.replace_damaged_record(&self.layout.image(id).record(), &record)
    }

    fn replace_damaged_record(
        &self,
        path: &std::path::Path,
        changed: &impl Record,
    ) -> Result<(), StoreError> {
        fault::point("mark_damaged", "record", &self.layout.root().to_string_lossy())
            .map_err(|fault| StoreError::at("write", path)(io::Error::other(fault)))?;
        record::replace(path, changed)
    }
}
