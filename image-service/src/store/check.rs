//! Finding layers that are not what was unpacked: after a power cut, a broken disk, or a person's edit.

use std::collections::HashSet;
use std::io;

use rustix::io::Errno;

use super::error::StoreError;
use super::record::LayerRecord;
use super::{Health, Inner, Store};
use crate::digest::DiffId;
use crate::tree::{self, Depth, Measured};

/// What a layer's tree is like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// Exactly what was unpacked.
    Sound,
    /// Something else; the reason says what. The next pull of an image with this layer replaces it.
    Damaged(String),
    /// An earlier release unpacked it and recorded no checksum.
    Unknown,
}

impl Store {
    /// Compares names and attributes in `layers` with what was unpacked, for those that this server has
    /// neither unpacked nor checked, and everything in those that may not have reached the disk. Returns
    /// those that cannot be used: the pull that asks fetches them again.
    ///
    /// It reads one inode per file, once in a server's life.
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
            match self.inner.examine(diff, depth) {
                Ok(Condition::Sound) => {}
                Ok(Condition::Unknown) if depth == Depth::Metadata => {}
                Ok(Condition::Unknown | Condition::Damaged(_)) => damaged.push(diff.clone()),
                Err(error) => tracing::warn!(layer = %diff, %error, "cannot check a layer"),
            }
        }
        damaged
    }

    /// Reads everything in a layer and compares it with what was unpacked.
    ///
    /// # Errors
    /// [`StoreError::LayerMissing`], or the layer cannot be read for another reason than damage.
    pub fn verify(&self, diff: &DiffId) -> Result<Condition, StoreError> {
        let _hold = self.hold(std::slice::from_ref(diff));
        self.inner.examine(diff, Depth::Content)
    }
}

impl Inner {
    fn examine(&self, diff: &DiffId, depth: Depth) -> Result<Condition, StoreError> {
        let (record, version) = {
            let state = self.state();
            let layer = state.layers.get(diff).ok_or_else(|| StoreError::LayerMissing(diff.clone()))?;
            (layer.record.clone(), layer.version)
        };
        let tree = self.layout.layer(diff).tree();
        let implied: HashSet<&[u8]> =
            record.implied.iter().chain(&record.inherited).map(String::as_bytes).collect();
        let condition = match tree::measure(&tree, depth, &implied) {
            Ok(measured) => compare(&record, &measured, depth),
            Err(error) if is_damage(&error) => Condition::Damaged(error.to_string()),
            Err(error) => return Err(StoreError::at("read", &tree)(error)),
        };
        self.note(diff, version, &condition)?;
        Ok(condition)
    }

    /// Remembers what was found, unless another tree has taken the layer's place meanwhile.
    fn note(&self, diff: &DiffId, version: u64, condition: &Condition) -> Result<(), StoreError> {
        let _writing = self.writing();
        let health = match self.state().layers.get(diff) {
            Some(layer) if layer.version == version => layer.health,
            _ => return Ok(()),
        };
        match condition {
            Condition::Damaged(why) => {
                tracing::error!(layer = %diff, why, "a layer is damaged; the next pull of an image with it replaces it");
                self.mark_damaged(diff)
            }
            // A failed sync is not refuted by what the page cache has.
            _ if health == Health::Damaged => Ok(()),
            Condition::Unknown if health == Health::Unsynced => Ok(()),
            Condition::Sound | Condition::Unknown => {
                if let Some(layer) = self.state_mut().layers.get_mut(diff) {
                    layer.health = Health::Sound;
                }
                Ok(())
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

/// The file system lost something, rather than the server lacking memory or descriptors.
fn is_damage(error: &io::Error) -> bool {
    let damage =
        [Errno::IO, Errno::NOENT, Errno::NOTDIR, Errno::LOOP, Errno::UCLEAN, Errno::BADMSG, Errno::STALE];
    Errno::from_io_error(error).is_some_and(|errno| damage.contains(&errno))
}
