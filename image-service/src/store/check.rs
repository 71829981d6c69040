//! Finds damaged layers: after a power cut, a broken disk, or a person's edit.

use std::collections::HashSet;
use std::io;
use std::sync::Arc;

use rustix::io::Errno;

use super::error::StoreError;
use super::image::Image;
use super::record::LayerRecord;
use super::{Health, Inner, Store};
use crate::digest::DiffId;
use crate::tree::{self, Depth, Measured, ReadRate};

/// The condition of a layer's tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// Exactly as it was unpacked.
    Sound,
    /// It differs, for this reason. The next pull of an image with this layer replaces it.
    Damaged(String),
    /// An earlier release unpacked it and recorded no checksum.
    Unknown,
}

impl Store {
    /// Compares names and attributes in `layers` with their checksums, for those that this server has neither
    /// unpacked nor checked, and the whole content of those that may not have reached the disk. Returns those
    /// that cannot be used: the pull fetches them again.
    ///
    /// Reads one inode per file, once in a server's life.
    pub fn check_layers(&self, layers: &[DiffId]) -> Vec<DiffId> {
        let _hold = self.hold(layers);
        let mut damaged = Vec::new();
        for diff in layers {
            let health = self.inner.state().layers.get(diff).map(|layer| layer.health);
            let depth = match health {
                None | Some(Health::Sound) => continue,
                Some(Health::Damaged) => {
                    damaged.push(diff.clone());
                    continue;
                }
                Some(Health::Unchecked) => Depth::Metadata,
                Some(Health::Unsynced) => Depth::Content,
            };
            match self.inner.examine(diff, depth, &mut ReadRate::unlimited()) {
                Ok(Condition::Sound) => {}
                Ok(Condition::Unknown) if depth == Depth::Metadata => {}
                Ok(Condition::Unknown | Condition::Damaged(_)) => damaged.push(diff.clone()),
                Err(error) => tracing::warn!(layer = %diff, %error, "cannot check a layer"),
            }
        }
        damaged
    }

    /// Reads a whole layer and compares it with its checksum.
    ///
    /// # Errors
    /// [`StoreError::LayerMissing`], or the layer cannot be read for another reason than damage.
    pub fn verify(&self, diff: &DiffId) -> Result<Condition, StoreError> {
        self.verify_at(diff, &mut ReadRate::unlimited())
    }

    /// [`verify`](Self::verify), as fast as `rate` allows.
    ///
    /// # Errors
    /// As [`verify`](Self::verify).
    pub fn verify_at(&self, diff: &DiffId, rate: &mut ReadRate) -> Result<Condition, StoreError> {
        let _hold = self.hold(std::slice::from_ref(diff));
        self.inner.examine(diff, Depth::Content, rate)
    }

    /// Every layer with its bytes on disk, sorted.
    #[must_use]
    pub fn layers(&self) -> Vec<(DiffId, u64)> {
        let state = self.inner.state();
        let mut layers: Vec<_> =
            state.layers.iter().map(|(diff, layer)| (diff.clone(), layer.record.bytes)).collect();
        layers.sort_unstable();
        layers
    }

    /// The images that contain a layer.
    #[must_use]
    pub fn images_with(&self, diff: &DiffId) -> Vec<Arc<Image>> {
        let state = self.inner.state();
        let with = state.images.values().filter(|stored| stored.record.lower().contains(diff));
        with.map(|stored| Arc::clone(&stored.image)).collect()
    }
}

impl Inner {
    fn examine(&self, diff: &DiffId, depth: Depth, rate: &mut ReadRate) -> Result<Condition, StoreError> {
        loop {
            let (record, version) = {
                let state = self.state();
                let layer = state.layers.get(diff).ok_or_else(|| StoreError::LayerMissing(diff.clone()))?;
                (layer.record.clone(), layer.version)
            };
            let tree = self.layout.layer(diff).tree();
            let implied: HashSet<&[u8]> =
                record.implied.iter().chain(&record.inherited).map(String::as_bytes).collect();
            let condition = match tree::measure(&tree, depth, &implied, rate) {
                Ok(measured) => compare(&record, &measured, depth),
                Err(error) if is_damage(&error) => Condition::Damaged(error.to_string()),
                Err(error) => return Err(StoreError::at("read", &tree)(error)),
            };
            // Repeats the check if a pull has replaced the tree meanwhile.
            if self.note(diff, version, &condition) {
                return Ok(condition);
            }
        }
    }

    /// Records the result for the tree of `version`; returns false when another tree is in its place.
    fn note(&self, diff: &DiffId, version: u64, condition: &Condition) -> bool {
        let _writing = self.writing();
        let health = match self.state().layers.get(diff) {
            Some(layer) if layer.version == version => layer.health,
            _ => return false,
        };
        self.note_health(diff, health, condition);
        true
    }

    fn note_health(&self, diff: &DiffId, health: Health, condition: &Condition) {
        match condition {
            Condition::Damaged(why) => {
                tracing::error!(layer = %diff, why, "a layer is damaged; the next pull of an image with it replaces it");
                self.mark_damaged(diff);
            }
            // After a failed sync, a good page cache proves nothing.
            _ if health == Health::Damaged => {}
            Condition::Unknown if health == Health::Unsynced => {}
            Condition::Sound | Condition::Unknown => {
                if let Some(layer) = self.state_mut().layers.get_mut(diff) {
                    layer.health = Health::Sound;
                }
            }
        }
    }
}

fn compare(record: &LayerRecord, measured: &Measured, depth: Depth) -> Condition {
    let Some(checksum) = record.checksum else { return Condition::Unknown };
    if measured.inodes != record.inodes {
        return Condition::Damaged(format!("it has {} inodes instead of {}", measured.inodes, record.inodes));
    }
    if measured.checksum.metadata != checksum.metadata {
        return Condition::Damaged("names or attributes in it have changed".to_owned());
    }
    if depth == Depth::Content && measured.checksum.content != checksum.content {
        return Condition::Damaged("the content of its files has changed".to_owned());
    }
    Condition::Sound
}

/// Whether the file system lost data; false if the server lacks memory or descriptors.
fn is_damage(error: &io::Error) -> bool {
    let damage =
        [Errno::IO, Errno::NOENT, Errno::NOTDIR, Errno::LOOP, Errno::UCLEAN, Errno::BADMSG, Errno::STALE];
    Errno::from_io_error(error).is_some_and(|errno| damage.contains(&errno))
}
